"""The learning rate before anything was run: a prior range per optimizer and model, warmup and decay."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trivet.facts import Profile
from trivet.recipes import Advice, Edit, Recipe
from trivet.recipes.build import base_lr
from trivet.schedules.scaling import scaled_lr, warmup_fraction


@dataclass(frozen=True)
class RatePrior:
    """Where the rate of an optimizer is looked for: `low` to `high`, starting from `pick` at `base_batch`."""

    low: float
    pick: float
    high: float
    base_batch: int
    source: str


# Ranges from scratch. Adaptive methods share a scale (a step is about lr per coordinate); the others do not.
PRIORS = {
    "SGD": RatePrior(1e-3, 0.05, 2.0, 128, "timm: 0.1 per 256 samples with momentum 0.9"),
    "AdamW": RatePrior(1e-4, 2e-3, 3e-2, 256, "RealMLP and AlgoPerf tuned rates: 5e-4 to 5e-3"),
    "Adam": RatePrior(1e-4, 2e-3, 3e-2, 256, "as AdamW"),
    "NAdam": RatePrior(1e-4, 2e-3, 3e-2, 256, "AlgoPerf NadamW winners: 8e-4 to 5e-3"),
    "RAdam": RatePrior(1e-4, 2e-3, 3e-2, 256, "as AdamW"),
    "Adamax": RatePrior(1e-4, 4e-3, 5e-2, 256, "twice Adam's, as in the paper's defaults"),
    "RMSprop": RatePrior(1e-5, 1e-3, 1e-2, 256, "no momentum of its own: about half of Adam's"),
    "Lion": RatePrior(1e-5, 3e-4, 3e-3, 256, "Chen et al. 2023: three to ten times below AdamW's"),
    "Adagrad": RatePrior(1e-3, 2e-2, 0.5, 256, "Duchi et al. 2011; a vanishing rate needs a larger start"),
    "Adadelta": RatePrior(0.05, 1.0, 10.0, 256, "Zeiler 2012: unitless, 1"),
    "Rprop": RatePrior(1e-4, 1e-2, 0.1, 256, "Riedmiller & Braun 1993: only the first step's length"),
    "LARS": RatePrior(0.05, 1.0, 20.0, 256, "You et al. 2017: layer-wise trust ratios allow SGD's rate times ten"),
    "LAMB": RatePrior(3e-4, 4e-3, 3e-2, 256, "You et al. 2019: 1.76e-3 per 512 samples with trust ratios"),
    "Adafactor": RatePrior(1e-4, 1e-2, 3e-2, 256, "Shazeer & Stern 2018: relative steps of at most 1e-2"),
    "Sophia": RatePrior(1e-5, 2e-4, 3e-3, 256, "Liu et al. 2023: about Lion's, 0.8 of AdamW's at most"),
    "Muon": RatePrior(1e-3, 2e-2, 0.1, 256, "Jordan 2024: 0.02; an orthogonal step has no gradient scale"),
    "AdamWScheduleFree": RatePrior(3e-4, 5e-3, 5e-2, 256, "Defazio et al. 2024: one to ten times AdamW's"),
    "SGDScheduleFree": RatePrior(0.05, 1.0, 20.0, 128, "Defazio et al. 2024: ten to fifty times SGD's"),
    "Prodigy": RatePrior(0.1, 1.0, 3.0, 256, "Mishchenko & Defazio 2023: it finds its own rate, lr is a factor of it"),
}
ANYTHING = RatePrior(1e-5, 1e-3, 1.0, 256, "unknown optimizer: a wide range")


def rate_prior(optimizer: str, *, pretrained: bool = False) -> RatePrior:
    """Return where to look for an optimizer's rate; fine-tuning looks one and a half decades lower.

    >>> rate_prior("AdamW").pick > rate_prior("AdamW", pretrained=True).pick
    True
    """
    prior = PRIORS.get(optimizer, ANYTHING)
    if not pretrained:
        return prior
    return RatePrior(prior.low / 30, prior.pick / 20, prior.high / 10, prior.base_batch, prior.source)


# Priors are rates of long runs. Measured on short ones (benchmarks/regret.py, 120 to 350 steps; docs/decisions/134),
# good rates were two to three times higher, and hardly changed with batches of 16 to 256 rows.
LONG, SHORT = 30_000, 1_000
# Tuned rates of adaptive methods fall with the width; the priors' are of models up to this size (AlgoPerf, nanoGPT).
SMALL = 1_000_000


def length_factor(steps: float) -> float:
    """Return how much higher the rate of a run of some steps is than a long one's: the fourth root of the ratio.

    The best constant step length of T steps falls with the square root of T (Nemirovski et al. 2009); with a decay it
    falls less, and at the ends not at all.

    >>> length_factor(30_000), round(length_factor(200), 2)
    (1.0, 2.34)
    """
    return max(1.0, math.pow(LONG / max(steps, SHORT), 0.25))


def rate(profile: Profile, recipe: Recipe) -> tuple[Advice, ...]:
    """Take the prior's rate; raise it for a short run and a large batch, lower it for a large model."""
    name, model = str(recipe.optimizer["name"]), profile.model
    prior = rate_prior(name, pretrained=model.pretrained)
    steps = max(1.0, recipe.epochs * max(1, profile.data.rows // (recipe.batch_size * recipe.accumulate)))
    batch = max(recipe.batch_size * recipe.accumulate, prior.base_batch)
    scaled = scaled_lr(prior.pick, batch_size=batch, base_batch_size=prior.base_batch, optimizer=name)
    longer = 1.0 if model.pretrained or scaled.rule == "none" else length_factor(steps)
    larger = 1.0
    if scaled.rule == "square root" and not model.pretrained:
        larger = min(1.0, math.pow(SMALL / max(1, model.parameters), 0.25))
    lr = float(f"{min(max(scaled.lr * longer * larger, prior.low), prior.high):.2g}")
    reasons = [
        f"Tuned rates of {name} lie mostly between {prior.low:g} and {prior.high:g}, those of long runs at "
        f"about {prior.pick:g}."
    ]
    if batch > prior.base_batch:
        reasons.append(f"Batches of {batch} allow more ({scaled.rule} scaling from {prior.base_batch}).")
    if longer > 1:
        reasons.append(f"A run of {steps:,.0f} steps wants {longer:.2g} times that: it has less time to get anywhere.")
    if larger < 1:
        reasons.append(f"A model of {model.parameters:,} parameters wants {larger:.2g} times that.")
    return (
        Advice(
            Edit("optimizer.lr", lr),
            " ".join([*reasons, "The range test confirms it or moves it."]),
            {"low": prior.low, "high": prior.high, "steps": round(steps), "batch": recipe.batch_size},
            f"{prior.source}; short runs measured in benchmarks/regret.py; {scaled.source}".rstrip("; "),
            0.5,
        ),
    )


def schedule(profile: Profile, recipe: Recipe) -> tuple[Advice, ...]:
    """Warm up while the statistics are young, then decay to nothing."""
    model = profile.model
    attention = bool(model.layers.get("attention"))
    warmup = warmup_fraction(
        str(recipe.optimizer["name"]), pretrained=model.pretrained, attention=attention, post_norm=model.post_norm
    )
    text = f"warmup({warmup.fraction:g}) >> cosine()" if warmup.fraction else "cosine()"
    return (
        Advice(
            Edit("schedule", text),
            "A rate that ends at zero averages out the noise of the last batches, which is where most of the metric is "
            f"won. Before that, {warmup.fraction:.0%} of warmup: {warmup.reason[0].lower()}{warmup.reason[1:]}",
            {
                "attention layers": model.layers.get("attention", 0),
                "pretrained": "yes" if profile.model.pretrained else "no",
            },
            f"Loshchilov & Hutter 2017; {warmup.source}",
            0.75,
            {"a constant rate": "it leaves the last batches' noise in the weights"},
        ),
    )


def with_batch_size(recipe: Recipe, batch_size: int) -> tuple[Advice, ...]:
    """Return the edits that carry a recipe to another batch size: the size, and the rate by its optimizer's rule.

    The number of epochs stays, so that the schedule, in fractions of the run, needs no edit. Gradient accumulation
    counts: what matters is the number of samples per optimizer step. Raises `InputError` for a size below 1.

    >>> recipe = Recipe(loss="mse_loss", optimizer={"name": "SGD", "lr": 0.1}, batch_size=256)
    >>> [str(advice.edit) for advice in with_batch_size(recipe, 512)]
    ['batch_size = 512', 'optimizer.lr = 0.2']
    """
    name, before = str(recipe.optimizer["name"]), recipe.batch_size
    scaled = scaled_lr(base_lr(recipe), batch_size=batch_size, base_batch_size=before, optimizer=name)
    ratio = batch_size / before
    size = Advice(
        Edit("batch_size", batch_size),
        f"Asked for: {ratio:g} times {before}, so {ratio:g} times fewer steps in the same epochs.",
        {"from": before, "to": batch_size},
        confidence=1.0,
    )
    if scaled.rule == "none" or ratio == 1:
        return (size,)
    return (
        size,
        Advice(
            Edit("optimizer.lr", float(f"{scaled.lr:.4g}")),
            scaled.reason,
            {"from": base_lr(recipe), "rule": scaled.rule, "ratio": ratio},
            scaled.source,
            0.6,
            {"the same rate": "fewer steps of the same length go less far"} if ratio > 1 else {},
        ),
    )


RULES = (rate, schedule)
