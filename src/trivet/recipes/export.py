"""A recipe as a plain PyTorch script.

The script holds everything that decides the result: the model's source, the loss, the optimizer with its groups, the
schedule as a formula, the order of batches, and the choice of the best weights. Where torch has the part, torch's own
is used, and trivet is imported only for parts that torch lacks. Data comes from `data.npz` beside the script
(`X_train, y_train, X_val, y_val, X_test, y_test`, encoded as in training), which `trivet.export` writes.
"""

from __future__ import annotations

import ast
import inspect
from typing import TYPE_CHECKING, Protocol

import torch
from torch import nn

from trivet.errors import RecipeError
from trivet.recipes.catalogue import loss_class, loss_terms, optimizer_class, parameters_of
from trivet.recipes.recipe import format_value

if TYPE_CHECKING:
    from trivet.recipes.recipe import Recipe


class Exportable(Protocol):
    """What the export needs of a task: its own words for the model and for the metric."""

    outputs: int

    def model_source(self) -> str:
        """Return Python source that defines `make_model()`."""
        ...

    def metric_source(self) -> str:
        """Return Python source that defines `metric(outputs, targets)` and `HIGHER_IS_BETTER`."""
        ...


OWN_MODEL = '''
def make_model() -> nn.Module:
    """Your model goes here; this stands in for it."""
    raise SystemExit("put your model into make_model()")
'''

OWN_METRIC = '''
HIGHER_IS_BETTER = False


def metric(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    """Your metric goes here; this is the loss itself."""
    return float(make_loss()(outputs, targets))
'''

TEMPLATE = '''"""Trains one recipe in plain PyTorch. Written by trivet; made to be edited.

{recipe}
"""

import copy
import math
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
{imports}
BATCH, EPOCHS, ACCUMULATE = {batch}, {epochs}, {accumulate}

{model}

{metric}

def make_loss() -> nn.Module:
    return {loss}


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
{optimizer}


def rate(progress: float) -> float:
    """Factor of the learning rate at progress in [0, 1]: {schedule}"""
{rate}


def load() -> dict[str, tuple[tuple[torch.Tensor, ...], torch.Tensor]]:
    """Read the splits; inputs are one array X_*, or several: X0_*, X1_*, ..."""
    with np.load(Path(__file__).with_name("data.npz"), allow_pickle=False) as file:
        arrays = {{name: torch.from_numpy(file[name]) for name in file.files}}
    splits = {{}}
    for split in ("train", "val", "test"):
        inputs = tuple(arrays[name] for name in sorted(arrays) if name[0] == "X" and name.endswith("_" + split))
        splits[split] = (inputs, arrays["y_" + split])
    return splits


@torch.no_grad()
def evaluate(model: nn.Module, inputs: tuple[torch.Tensor, ...], targets: torch.Tensor) -> tuple[float, float]:
    model.eval()
    outputs = torch.cat([model(*chunk) for chunk in zip(*(x.split(1024) for x in inputs))])
    model.train()
    return metric(outputs, targets), float(make_loss()(outputs, targets))


def main(seed: int) -> None:
    data = load()
    inputs, targets = data["train"]
    batch = min(BATCH, len(targets))
    accumulate = min(ACCUMULATE, math.ceil(len(targets) / batch))  # the last batch of a whole split may be smaller
    rows_per_step = min(batch * accumulate, len(targets))
    per_epoch = len(targets) // rows_per_step
    steps = max(1, round(EPOCHS * per_epoch))

    torch.manual_seed(seed)
    model = make_model()
    torch.manual_seed(seed)  # dropout starts from the seed, however many numbers the weights took
    loss_function, optimizer = make_loss(), make_optimizer(model)
{initialize}    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(min(step / steps, 1.0)))
    best, best_weights = (-math.inf, -math.inf), copy.deepcopy(model.state_dict())
    order = torch.empty(0, dtype=torch.int64)
    patience, waited = max(10, math.ceil(0.4 * math.ceil(steps / per_epoch))), 0
    model.train()
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        for part in range(accumulate):
            epoch, position = divmod((step - 1) * accumulate + part, per_epoch * accumulate)
            if position == 0:
                generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
                order = torch.randperm(len(targets), generator=generator)
            rows = order[position * batch : (position + 1) * batch]
            loss = loss_function(model(*(x[rows] for x in inputs)), targets[rows])
            (loss * (len(rows) / rows_per_step)).backward()
{clip}        optimizer.step()
        scheduler.step()
        if step % per_epoch == 0 or step == steps:
            value, val_loss = evaluate(model, *data["val"])
            score = (value if HIGHER_IS_BETTER else -value, -val_loss)
            waited += 1
            if score > best:
                best, best_weights, waited = score, copy.deepcopy(model.state_dict()), 0
            if waited >= patience:
                break
    model.load_state_dict(best_weights)
    print(f"val {{abs(best[0]):.6g}}  test {{evaluate(model, *data['test'])[0]:.6g}}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
'''


INITIALIZE = """    rows = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))[:512]
    trivet.initialize(model, tuple(x[rows] for x in inputs), targets[rows], loss=loss_function, seed=seed)
"""


def to_python(recipe: Recipe, task: Exportable | None = None) -> str:
    """Return the script for a recipe; with a task, its model and metric are written out too."""
    imports: list[str] = []
    clip = {
        "norm": "        nn.utils.clip_grad_norm_(model.parameters(), {})\n",
        "value": "        nn.utils.clip_grad_value_(model.parameters(), {})\n",
    }
    if recipe.spikes != "stop":
        raise RecipeError('spikes = "skip" is not written as a plain script; export the recipe with spikes = "stop"')
    if recipe.initialize == "data":
        imports.append("import trivet")
    return TEMPLATE.format(
        initialize=INITIALIZE if recipe.initialize == "data" else "",
        recipe=recipe.to_toml().strip(),
        batch=recipe.batch_size,
        epochs=recipe.epochs,
        accumulate=recipe.accumulate,
        model=(OWN_MODEL if task is None else task.model_source()).strip() + "\n",
        metric=(OWN_METRIC if task is None else task.metric_source()).strip() + "\n",
        loss=_loss(recipe, imports),
        optimizer=_optimizer(recipe, imports),
        schedule=recipe.schedule,
        rate=_rate(recipe, imports),
        clip="".join(clip[key].format(value) for key, value in (recipe.clip or {}).items()),
        imports="".join(f"\n{line}" for line in imports) + ("\n" if imports else ""),
    )


def _call(name: str, arguments: dict[str, object]) -> str:
    return f"{name}({', '.join(f'{key}={value}' for key, value in arguments.items())})"


def _loss(recipe: Recipe, imports: list[str]) -> str:
    terms = loss_terms(str(recipe.loss["name"]))
    if len(terms) == 1 and terms[0][0] == 1.0:
        return _term(recipe, terms[0][1], imports)
    imports.append("import trivet.losses  # for the sum of losses")
    made = [f"({weight!r}, {_term(recipe, name, imports)})" for weight, name in terms]
    return f"trivet.losses.CombinedLoss({', '.join(made)})"


def _term(recipe: Recipe, name: str, imports: list[str]) -> str:
    cls: type = loss_class(name)
    torch_name = {"BinaryCrossEntropyWithLogits": "BCEWithLogitsLoss"}.get(cls.__name__, cls.__name__)
    arguments: dict[str, object] = {}
    for key, value in recipe.loss.items():
        if key in parameters_of(cls):
            arguments[key] = f"torch.tensor({value})" if isinstance(value, list) else repr(value)
    in_torch = getattr(nn, torch_name, None)
    if in_torch is not None and all(key in inspect.signature(in_torch).parameters for key in arguments):
        return _call(f"nn.{torch_name}", arguments)
    if "import trivet.losses" not in "".join(imports):
        imports.append("import trivet.losses  # torch has no such loss")
    return _call(f"trivet.losses.{cls.__name__}", arguments)


def _optimizer(recipe: Recipe, imports: list[str]) -> str:
    name = str(recipe.optimizer["name"])
    arguments: dict[str, object] = {
        key: tuple(value) if isinstance(value, list) else repr(value)
        for key, value in recipe.optimizer.items()
        if key != "name"
    }
    in_torch = getattr(torch.optim, name, None) if name != "Muon" else None  # torch's takes matrices alone
    if in_torch is None or not all(key in inspect.signature(in_torch).parameters for key in arguments):
        imports.append("import trivet.optim  # torch has no such optimizer")
        owner = "trivet.optim"
    else:
        owner = "torch.optim"
    optimizer_class(name)
    if not recipe.groups:
        # Muon takes the model itself, to see which of its parameters are hidden matrices.
        what = "model" if getattr(optimizer_class(name), "wants_roles", False) else "model.parameters()"
        return f"    return {_call(f'{owner}.{name}', {'params': what} | arguments)}"
    routed = getattr(optimizer_class(name), "wants_roles", False)
    if recipe.groups.get("layer_decay", 1.0) != 1.0 or routed:
        if "import trivet.optim" not in "".join(imports):
            imports.append("import trivet.optim  # for the layer-wise rates")
        options: dict[str, object] = {
            "weight_decay": arguments.get("weight_decay", "0.0"),
            "lr": arguments["lr"],
            "no_decay": tuple(recipe.groups.get("no_decay", [])),  # type: ignore[arg-type]
            "layer_decay": repr(recipe.groups.get("layer_decay", 1.0)),
        }
        if routed:
            options["roles"] = True
        call = f"trivet.optim.param_groups(model, {', '.join(f'{k}={v}' for k, v in options.items())})"
        return f"    return {_call(f'{owner}.{name}', {'params': call} | arguments)}"
    return _grouped(recipe, f"{owner}.{name}", arguments)


def _grouped(recipe: Recipe, name: str, arguments: dict[str, object]) -> str:
    families = recipe.groups.get("no_decay", [])
    assert isinstance(families, list)
    tests = {
        "bias": "name == 'bias' or (parameter.ndim < 2 and 'Norm' not in type(module).__name__)",
        "norm": "'Norm' in type(module).__name__",
        "embedding": "isinstance(module, nn.Embedding)",
    }
    condition = " or ".join(tests[family] for family in families) or "False"
    return f"""    decayed, free = [], []  # no weight decay on {", ".join(map(str, families))}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            (free if {condition} else decayed).append(parameter)
    groups = [{{"params": decayed}}, {{"params": free, "weight_decay": 0.0}}]
    return {_call(name, {"params": "groups"} | arguments)}"""


def _rate(recipe: Recipe, imports: list[str]) -> str:
    """Write the schedule as the body of `rate(progress)`: phases with a length, then the rest of the run."""
    *phases, last = (ast.parse(text.strip(), mode="eval").body for text in recipe.schedule.split(">>"))
    lines, begin = [], 0.0
    for phase in phases:
        name, length, options = _phase(phase)
        if name not in FORMULAS or length is None:
            return _imported_rate(recipe, imports)
        lines += [
            f"    if progress < {begin + length:g}:",
            f"        p = (progress - {begin:g}) / {length:g}",
        ]
        lines += [f"        return {_formula(name, options)}"]
        begin += length
    name, length, options = _phase(last)
    if name not in FORMULAS or length is not None:
        return _imported_rate(recipe, imports)
    lines += [f"    p = (progress - {begin:g}) / {1 - begin:g}", f"    return {_formula(name, options)}"]
    return "\n".join(lines)


# The factor over p in [0, 1] of a phase; `floor` is where a decay ends.
FORMULAS = {
    "constant": "1.0",
    "warmup": "p",
    "linear": "{floor} + (1 - {floor}) * (1 - p)",
    "cosine": "{floor} + (1 - {floor}) * 0.5 * (1 + math.cos(math.pi * p))",
}


def _phase(node: ast.expr) -> tuple[str, float | None, dict[str, object]]:
    """Return the name, length and options of one phase of a schedule's text."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        return "", None, {}
    lengths = [ast.literal_eval(argument) for argument in node.args]
    options = {word.arg or "": ast.literal_eval(word.value) for word in node.keywords}
    return node.func.id, float(lengths[0]) if lengths else None, options


def _formula(name: str, options: dict[str, object]) -> str:
    return FORMULAS[name].format(floor=options.get("floor", 0.0))


def _imported_rate(recipe: Recipe, imports: list[str]) -> str:
    imports.append("import trivet.schedules  # torch has no such schedule")
    return f"    return trivet.schedules.parse({format_value(recipe.schedule)})(progress)"
