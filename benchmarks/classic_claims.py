"""Optimizers at one shared rate and each at its own, on blood cells: a CNN from scratch and a pretrained MobileNetV2.

Run: `python -m benchmarks.classic_claims [cnn|mobilenet ...]`. The claim that is tried is an old one: at a shared rate
of 0.001 Adam is ahead. Everything but optimizer and rate is the same; `trivet compare --optimizers sgd,adam,rmsprop
--at-shared-lr 1e-3 --and-tuned` does the same from the command line. It goes on where it was stopped, in `runs/`.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import trivet
from benchmarks.store import RESULTS, store
from trivet.figures.style import write_svg
from trivet.recipes import Recipe
from trivet.tuning import compare
from trivet.tuning.claims import optimizer_claims
from trivet.tuning.contenders import at_shared_rate, at_tuned_rate

DATA = Path(__file__).parents[2] / "shared" / "data"
CELLS = DATA / "bccd_blood_cells" / "bccd_blood_cells.npz"
PRETRAINED = DATA / "pretrained_mobilenetv2"
PICTURES = Path(__file__).parents[1] / "docs" / "pictures"

OPTIMIZERS, SHARED, SEEDS = ("sgd", "adam", "rmsprop"), 1e-3, 5
EPOCHS = {"cnn": 8, "mobilenet": 3}


def cnn() -> nn.Module:
    """A plain CNN as in a first course: three convolutions with pooling, no norms."""

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]

    blocks = [*block(3, 16), *block(16, 32), *block(32, 64)]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 3))


class MobileNet(nn.Module):
    """MobileNetV2 with ImageNet's weights and a fresh head; all of it is trained, on images brought to 64 x 64."""

    def __init__(self) -> None:
        super().__init__()
        spec = importlib.util.spec_from_file_location("mobilenet_models", PRETRAINED / "models.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.body = module.MobileNetV2(3)
        weights = torch.load(PRETRAINED / "mobilenetv2_imagenet_trunk.pt", weights_only=True)
        self.body.load_state_dict(weights, strict=False)

    def forward(self, images: Tensor) -> Tensor:
        larger = nn.functional.interpolate(images, size=64, mode="bilinear", align_corners=False)
        logits: Tensor = self.body(larger)
        return logits


def claim(name: str) -> dict[str, object]:
    """Compare the optimizers on one model; also draw it."""
    task = trivet.read_task(str(CELLS), model={"cnn": cnn, "mobilenet": MobileNet}[name])
    recipe = Recipe(
        loss="cross_entropy",
        optimizer={"name": "SGD", "lr": SHARED},
        schedule="warmup(0.05) >> cosine()",
        batch_size=64,
        epochs=EPOCHS[name],
    )
    out = Path("runs") / f"classic-{name}"
    contenders = at_shared_rate(recipe, OPTIMIZERS, SHARED)
    contenders |= at_tuned_rate(task, recipe, OPTIMIZERS, out=out, say=print)
    study = compare(task, contenders, seeds=SEEDS, split="test", sensitivity=name == "cnn", out=out, say=print)
    print(study)
    write_svg(study.plot(), str(PICTURES / f"claims-{name}.svg"))
    return {
        "model": name,
        "epochs": EPOCHS[name],
        "metric": f"{study.metric} on the test split",
        "contenders": [
            {
                "name": contender.name,
                "recipe": contender.recipe.as_dict(),
                "scores": study.scores(contender.name),
                "update_ratio": [trial.update_ratio for trial in study.of(contender.name)],
                "steps_to_target": study.steps_to_target(contender.name),
                "milliseconds_per_step": [round(1e3 * t.seconds_per_step, 2) for t in study.of(contender.name)],
                "state_bytes_per_parameter": contender.state_bytes_per_parameter,
                "good_rates": str(study.good_rates(contender.name) or "not probed"),
                "batch_effects": {
                    f"{times:g}": effect if math.isfinite(effect) else None  # None where a run diverged
                    for times, effect in study.batch_effects(contender.name).items()
                },
            }
            for contender in study.contenders
        ],
        "differences": [str(found) for found in study.differences()],
        "claims": optimizer_claims(study),
        "table": str(study).splitlines(),
    }


def main() -> None:
    """Run what is named, or both; a result that is not run again stays."""
    import json

    wanted = sys.argv[1:] or list(EPOCHS)
    stored = RESULTS / "classic_claims.json"
    known = {row["model"]: row for row in json.loads(stored.read_text())["rows"]} if stored.exists() else {}
    for name in wanted:
        known[name] = claim(name)
        store("classic_claims", {"rows": list(known.values())})


if __name__ == "__main__":
    main()
