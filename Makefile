# Every target sets up .venv by itself; the second time that costs nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORE := .venv-core
LOOPS := .venv-integrations
DATA ?= sklearn:breast_cancer
ARGS ?=

.PHONY: fit test test-core test-integrations check bench docs clean

fit: $(VENV)/.ready
	$(BIN)/trivet fit $(DATA) $(ARGS)

# Two workers with two threads each on two cores: a thread that spins while it waits would hold up the others.
test test-core: export OMP_WAIT_POLICY = PASSIVE

test: $(VENV)/.ready test-core
	$(BIN)/python -m pytest -n 2 --cov=trivet --cov-report=term $(ARGS)

# The core alone: no app extra, so nothing of the application may be needed by losses, optimizers, schedules, recipes.
CORE_PARTS := schedules kernels losses optim recipes
test-core: $(CORE)/.ready
	$(CORE)/bin/python -m pytest -q -m "not app and not slow" \
		$(addprefix tests/,$(CORE_PARTS)) $(addprefix src/trivet/,$(CORE_PARTS))

# Lightning, transformers, Ignite and TensorBoard themselves: asked for by name, for they are large.
test-integrations: $(LOOPS)/.ready
	$(LOOPS)/bin/python -m pytest -q tests/integrations src/trivet/integrations

check: $(VENV)/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.ready
	$(BIN)/python -m benchmarks

docs: $(VENV)/.ready
	$(BIN)/python -m docs.generate
	$(BIN)/python -m docs.conformance

clean:
	rm -rf $(VENV) $(CORE) $(LOOPS) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage* dist

# torch is installed first and pinned exactly, so that no later resolution looks for another build of it.
$(VENV)/.ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt "torch==2.13.0"
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[app,dev]"
	touch $@

$(CORE)/.ready: pyproject.toml constraints.txt
	test -x $(CORE)/bin/python || $(PYTHON) -m venv $(CORE)
	$(CORE)/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt "torch==2.13.0"
	$(CORE)/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -e . pytest hypothesis
	touch $@

$(LOOPS)/.ready: pyproject.toml constraints.txt
	test -x $(LOOPS)/bin/python || $(PYTHON) -m venv $(LOOPS)
	$(LOOPS)/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt "torch==2.13.0"
	$(LOOPS)/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt \
		-e ".[app,lightning,transformers,ignite,tensorboard]" pytest hypothesis
	touch $@
