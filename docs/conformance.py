"""Write the tables of what every loss and optimizer keeps: `python -m docs.conformance`, a part of `make docs`.

A cell of a loss is the outcome of the contract suite's own checks (`tests/losses/test_contract.py`), run here and now;
optimizers' are measured in `docs.optimizer_conformance`. Nothing is written by hand, except which losses gather over
processes: that is read from their signatures.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from docs import optimizer_conformance
from trivet import losses

HERE = Path(__file__).parent
TABLE = HERE / "conformance.md"
SUITE = HERE.parent / "tests" / "losses" / "test_contract.py"

INTRODUCTION = """# What every loss and optimizer keeps

## Losses

Written by `python -m docs.conformance` from the outcomes of the contract suite. *float32* and *half* (bfloat16 and
float16): value and gradient follow float64's for logits of size 1 and 10000. *gradient* and *second*: equal to finite
differences in float64. *empty*: a batch of which nothing takes part gives 0 with zero gradients, or NaN when asked.
*NaN*: one in the input is seen in the loss, in three types and under every reduction. *func*: `torch.func.grad` agrees
with autograd. *compile*: `torch.compile` without a graph break. *distributed*: "gathers" are losses that can see every
process's rows (`gather=True`), with the gradients of a single process; the others are means of each process's own rows,
which data parallel training averages: exact for equal shares of weight (Lovasz with `pooling="batch"` sorts each
process's own pixels).

"""


def suite() -> ModuleType:
    """Return the contract suite as a module."""
    spec = importlib.util.spec_from_file_location("contract_suite", SUITE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def outcome(checks: Iterable[Callable[[], object]]) -> str:
    """Return yes, NO, or why a check does not apply."""
    for check in checks:
        torch.manual_seed(0)
        try:
            check()
        except pytest.skip.Exception as skipped:
            return f"no: {skipped.msg}"
        except AssertionError:
            return "NO"
        except Exception as error:  # a check that cannot even run has failed too
            return f"NO ({type(error).__name__})"
    return "yes"


def second(name: str, contract: ModuleType) -> str:
    """Return whether there is a second derivative to check; the check of the first gradient covers it."""
    x, t = losses.examples.EXAMPLES[name].batch(5, 1.0)
    leaf = x.requires_grad_()
    (first,) = torch.autograd.grad(contract._module(name)(leaf, t), leaf, create_graph=True)
    return "yes" if first.requires_grad else "zero everywhere"


def row(name: str, contract: ModuleType) -> list[str]:
    """Return the cells of one loss."""

    def narrow(*dtypes: torch.dtype) -> list[Callable[[], object]]:
        follow = contract.test_narrow_types_follow_float64
        return [lambda d=d, s=s: follow(name, d, s) for d in dtypes for s in (1.0, 1e4)]  # type: ignore[misc]

    def one(check: str, *arguments: object) -> str:
        return outcome([lambda: getattr(contract, check)(name, *arguments)])

    gradient = one("test_first_and_second_gradients_equal_finite_differences")
    gathers = "gather" in losses.catalogue()[name]._hyperparameters()
    return [
        f"`{name}`",
        outcome(narrow(torch.float32)),
        outcome(narrow(torch.bfloat16, torch.float16)),
        gradient,
        second(name, contract) if gradient == "yes" else gradient,
        outcome(
            lambda e=e: contract.test_nothing_gives_zero_with_zero_gradients_or_nan(name, e)  # type: ignore[misc]
            for e in ("zero", "nan")
        ),
        outcome(
            lambda d=d, r=r: contract.test_a_nan_in_the_input_gives_nan_and_never_a_number(name, d, r)  # type: ignore[misc]
            for d in (torch.float64, torch.float32, torch.bfloat16)
            for r in ("mean", "sum", "none")
        ),
        one("test_functional_transforms_agree_with_autograd"),
        one("test_compiles_without_a_graph_break"),
        "gathers" if gathers else "rows",
    ]


def table(names: Iterable[str]) -> str:
    """Return the page's part on these losses as Markdown."""
    contract = suite()
    head = ["loss", "float32", "half", "gradient", "second", "empty", "NaN", "func", "compile", "distributed"]
    lines = [head, ["---"] * len(head), *(row(name, contract) for name in names)]
    return INTRODUCTION + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def main() -> None:
    TABLE.write_text(table(sorted(losses.catalogue())) + optimizer_conformance.table(), encoding="utf-8")
    print(f"{len(losses.catalogue())} losses and every optimizer in {TABLE.name}")


if __name__ == "__main__":
    main()
