"""The learning rate before anything was run: a prior range per optimizer and model, warmup and decay."""

from __future__ import annotations

from dataclasses import dataclass

from trivet.facts import Profile
from trivet.recipes import Advice, Edit, Recipe
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


def rate(profile: Profile, recipe: Recipe) -> tuple[Advice, ...]:
    """Take the prior's rate, scaled from its batch size to ours."""
    name = str(recipe.optimizer["name"])
    prior = rate_prior(name, pretrained=profile.model.pretrained)
    scaled = scaled_lr(prior.pick, batch_size=recipe.batch_size, base_batch_size=prior.base_batch, optimizer=name)
    lr = float(f"{min(max(scaled.lr, prior.low), prior.high):.2g}")
    return (
        Advice(
            Edit("optimizer.lr", lr),
            f"Tuned rates of {name} lie mostly between {prior.low:g} and {prior.high:g}; this is a good start for "
            f"batches of {recipe.batch_size} ({scaled.rule} scaling from {prior.base_batch}). The range test confirms "
            "it or moves it.",
            {"low": prior.low, "high": prior.high, "batch": recipe.batch_size},
            f"{prior.source}; {scaled.source}",
            0.5,
        ),
    )


def schedule(profile: Profile, recipe: Recipe) -> tuple[Advice, ...]:
    """Warm up while the statistics are young, then decay to nothing."""
    model = profile.model
    attention = bool(model.layers.get("attention"))
    warmup = warmup_fraction(str(recipe.optimizer["name"]), pretrained=model.pretrained, attention=attention)
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


RULES = (rate, schedule)
