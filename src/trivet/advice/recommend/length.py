"""Batch size and length: how many steps of what noise."""

from __future__ import annotations

from trivet.facts import Profile
from trivet.recipes import Advice, Edit, Recipe

# Work that two ordinary cores finish in some five minutes, at 100 GFLOP/s: a choice by counting, not by timing, so that
# the same task gets the same recipe on every machine.
WORK = 3.0e13
MIN_EPOCHS, MAX_EPOCHS = 8, 100


def batch_size(profile: Profile, recipe: Recipe) -> tuple[Advice, ...]:
    """Large enough to use the machine, small enough for a few thousand steps."""
    rows = profile.data.rows
    size = 128 if profile.data.is_image else 256
    if profile.model.layers.get("attention"):
        # A row is a whole text: its words, not the rows, fill a processor.
        size = 32
    while size > 16 and rows / size < 10:
        size //= 2
    return (
        Advice(
            Edit("batch_size", size),
            "At least ten steps per epoch, so that a run has enough steps, in batches that keep the cores busy.",
            {"rows": rows, "steps per epoch": max(1, rows // size)},
            "Shallue et al. 2019: below the critical batch size, size trades against steps one to one",
            0.6,
        ),
    )


def epochs(profile: Profile, recipe: Recipe) -> tuple[Advice, ...]:
    """About three thousand steps, within the work that a few minutes can do."""
    rows = profile.data.rows
    per_epoch = max(1, rows // recipe.batch_size)
    wanted = min(max(3000 / per_epoch, MIN_EPOCHS), MAX_EPOCHS)
    if profile.model.pretrained:
        wanted = min(wanted, 10)
    evidence: dict[str, float | int | str] = {"steps per epoch": per_epoch}
    reason = (
        "Enough passes for about three thousand steps; the best weights by the metric are kept, and training stops "
        "early when it no longer improves."
    )
    flops = profile.model.flops_per_sample
    if flops is not None:
        # One forward and a backward of twice its cost.
        affordable = WORK / (3 * flops * rows)
        evidence["GFLOP per epoch"] = 3 * flops * rows / 1e9
        if affordable < wanted:
            wanted = max(MIN_EPOCHS, affordable)
            reason = "As many passes as some minutes of work on two cores allow; the rate decays over exactly these."
    return (
        Advice(
            Edit("epochs", max(1, round(wanted))),
            reason,
            evidence,
            "a prior of this project; a longer run is seldom worse when the rate decays with it",
            0.55,
        ),
    )


RULES = (batch_size, epochs)
