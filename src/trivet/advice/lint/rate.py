"""The learning rate: its size, how it starts, how it ends, and whether the schedule fits the run."""

from __future__ import annotations

from trivet.advice.lint.base import Setup, Severity, found, nice, rule
from trivet.advice.recommend.rate import rate_prior
from trivet.recipes import Finding
from trivet.schedules.scaling import scaled_lr, warmup_fraction

# They end by themselves: averaging, line search by sign, or a rate that they find.
OWN_SCHEDULE = ("AdamWScheduleFree", "SGDScheduleFree", "Prodigy", "Rprop", "Adadelta", "Adagrad", "LBFGS")


@rule("TV130", "no schedule", source="Loshchilov and Hutter 2017; Schmidt et al. 2021, Crowded Valley", confidence=0.7)
def no_schedule(s: Setup) -> Finding | None:
    """A rate that stays high to the end leaves the noise of the last batches in the weights; a rate that ends near
    zero averages it out. That is often where most of the last points of a metric are.

    It happens because schedulers are optional. Let the rate fall over the run: cosine or linear.
    """
    if s.decay is None or s.moves is None or not s.decay.constant or s.moves.name in OWN_SCHEDULE:
        return None
    if s.steps is not None and s.steps < 100:
        return None
    warm = s.decay.warmup or 0.0
    text = f"warmup({warm:g}) >> cosine()" if warm and s.recipe is not None else "cosine()"
    evidence: dict[str, float | int | str] = {"schedule": s.decay.name, "rate": s.moves.lr}
    return found(
        "TV130",
        "warning",
        f"The rate stays at {s.moves.lr:g} to the end.",
        s.edit("schedule", text, "add CosineAnnealingLR(optimizer, T_max=steps) and step it after every batch"),
        evidence,
        refuted_by="weights are averaged (EMA, SWA), or the data is a stream without an end",
    )


@rule("TV131", "no warmup where it is needed", source="Xiong et al. 2020; Liu et al. 2020", confidence=0.75)
def no_warmup(s: Setup) -> Finding | None:
    """Adaptive methods know little of the gradients' size in their first steps, and in transformers that normalise
    after the sum the gradients near the output are large then. Without warmup such a run often diverges or stalls.

    It happens when a schedule is carried from a CNN. Let the rate rise over the first 2 to 10 % of the run.
    """
    if (
        s.decay is None
        or s.moves is None
        or s.decay.warmup is None
        or s.decay.warmup > 0
        or s.moves.name in OWN_SCHEDULE
    ):
        return None
    facts = s.profile.model if s.profile is not None else None
    attention = bool(facts.layers.get("attention")) if facts is not None else _attends(s)
    if not attention:
        return None
    post = facts.post_norm if facts is not None else _post_norm(s)
    needed = warmup_fraction(s.moves.name, pretrained=bool(s.pretrained), attention=True, post_norm=post)
    if not needed.fraction:
        return None
    severity: Severity = (
        "warning" if post or s.moves.lr >= rate_prior(s.moves.name, pretrained=bool(s.pretrained)).pick else "note"
    )
    decay = s.decay.name if s.recipe is not None else ""
    return found(
        "TV131",
        severity,
        f"{needed.reason} The rate starts at its full {s.moves.lr:g}.",
        s.edit(
            "schedule", f"warmup({needed.fraction:g}) >> {decay}", f"warm up over {needed.fraction:.0%} of the steps"
        ),
        {"norm after the sum": "yes" if post else "no", "rate": s.moves.lr},
    )


@rule(
    "TV132",
    "too large a rate for fine-tuning",
    source="choosing ranges of AutoGluon, Hugging Face and fastai",
    confidence=0.75,
)
def fine_tuning(s: Setup) -> Finding | None:
    """Loaded weights are close to good. Steps of the size that one takes from scratch destroy what they know before
    the new head has learned, and the run is training from scratch with a bad start.

    It happens when only the weights are exchanged and the recipe stays. Divide the rate by ten to a hundred; smaller
    still for the lower layers.
    """
    if not s.pretrained or s.moves is None or s.model is None:
        return None
    trainable = sum(p.numel() for p in s.model.parameters() if p.requires_grad)
    if trainable < 0.2 * sum(p.numel() for p in s.model.parameters()):
        return None  # the body is frozen; only the head moves
    prior = rate_prior(s.moves.name)
    attention = bool(s.profile.model.layers.get("attention")) if s.profile is not None else _attends(s)
    limit = prior.pick / 4 if attention else prior.pick
    if s.moves.highest_lr <= limit:
        return None
    pick = nice(rate_prior(s.moves.name, pretrained=True).pick)
    return found(
        "TV132",
        "warning",
        f"The weights are loaded and the rate is {s.moves.highest_lr:g}; up to {limit:.2g} keeps what they know.",
        s.edit("optimizer.lr", pick, f"use lr={pick:g}"),
        {"rate": s.moves.highest_lr, "limit": limit},
        refuted_by="the model was not pretrained but handed over after training began",
    )


@rule("TV133", "a rate far above the optimizer's range", source="trivet.advice.recommend.rate.PRIORS", confidence=0.75)
def too_high(s: Setup) -> Finding | None:
    """Each optimizer has its own scale of rates: a step of Adam is about the rate per coordinate, of SGD the rate
    times the gradient, of Lion the rate exactly. A rate that is good for one is far off for another.

    It happens when the optimizer is exchanged and the rate is kept. Start from the middle of the range, and find the
    rate: `trivet lr-find`.
    """
    if s.moves is None or s.pretrained:
        return None
    low, high, pick = _range(s)
    if s.moves.highest_lr <= high:
        return None
    return found(
        "TV133",
        "warning",
        f"{s.moves.name} with rate {s.moves.highest_lr:g}; tuned rates lie between {low:.1g} and {high:.1g}.",
        s.edit("optimizer.lr", nice(pick), f"use lr={nice(pick):g} and look from there: trivet lr-find"),
        {"rate": s.moves.highest_lr, "low": low, "high": high},
        refuted_by="a range test is stable there",
    )


@rule("TV134", "a rate far below the optimizer's range", source="trivet.advice.recommend.rate.PRIORS", confidence=0.65)
def too_low(s: Setup) -> Finding | None:
    """A rate far below its range crawls: after the whole run the weights are close to where they began. SGD at
    Adam's usual 0.001, without momentum, is the common case.

    It happens with tutorials that give every optimizer the same rate. Find the rate: `trivet lr-find`.
    """
    if s.moves is None or s.pretrained:
        return None
    low, high, pick = _range(s)
    crawls = low / 10
    if s.moves.name == "SGD" and s.moves.momentum == 0:
        crawls = low * 2  # the range is for momentum 0.9, which makes steps ten times as long
    if s.moves.highest_lr >= crawls:
        return None
    return found(
        "TV134",
        "warning",
        f"{s.moves.name} with rate {s.moves.highest_lr:g}; tuned rates lie between {low:.1g} and {high:.1g}.",
        s.edit("optimizer.lr", nice(pick), f"use lr={nice(pick):g} and look from there: trivet lr-find"),
        {"rate": s.moves.highest_lr, "low": low, "high": high, "momentum": s.moves.momentum},
    )


@rule("TV135", "the warmup or a phase does not fit the run", source="arithmetic", confidence=1.0)
def phases(s: Setup) -> Finding | None:
    """A warmup counted in steps or epochs can be longer than the run: then the rate never reaches its value. One that
    takes half of the run leaves too little for the rest.

    It happens when a recipe for a long run is used for a short one. Write the warmup as a share of the run:
    `warmup(0.05)`.
    """
    if s.decay is None:
        return None
    if s.decay.broken:
        return found(
            "TV135",
            "error",
            f"The schedule does not fit the run: {s.decay.broken}.",
            s.edit("schedule", "warmup(0.05) >> cosine()", "write lengths as shares of the run"),
            {"steps": s.steps or 0},
        )
    if s.decay.warmup is None or s.decay.warmup < 0.5:
        return None
    return found(
        "TV135",
        "warning",
        f"The warmup takes {s.decay.warmup:.0%} of the run.",
        s.edit("schedule", "warmup(0.05) >> cosine()", "warm up over about 5 % of the run"),
        {"share": s.decay.warmup},
    )


@rule("TV136", "a scheduler that ends at another time than the run", source="torch.optim.lr_scheduler", confidence=0.95)
def horizon(s: Setup) -> Finding | None:
    """CosineAnnealingLR rises again after T_max calls of step(), OneCycleLR raises an error, and with far fewer calls
    the decay never comes. T_max counts calls: give it epochs only if step() is called once per epoch.

    It happens when the count is in epochs and the calls are in batches. Give T_max the number of calls.
    """
    if s.own_script is False or s.decay is None or s.decay.horizon is None or s.steps is None:
        return None
    ends, calls = s.decay.horizon, s.steps
    if 0.8 * calls <= ends <= 1.3 * calls:
        return None
    what = "and then rises again" if s.decay.name == "CosineAnnealingLR" and ends < calls else ""
    what = what or ("before the run does" if ends < calls else "long after the run")
    return found(
        "TV136",
        "warning",
        f"{s.decay.name} ends after {ends} calls, {what}; the run makes {calls}.",
        f"set it to {calls}, and call step() after every optimizer step",
        {"ends": ends, "calls": calls},
    )


def _range(s: Setup) -> tuple[float, float, float]:
    """Return low, high and pick of the optimizer's range for this batch size; a larger batch only widens it."""
    assert s.moves is not None
    prior = rate_prior(s.moves.name)
    if s.batch_size is None:
        return prior.low, prior.high, prior.pick
    ratio = scaled_lr(1.0, batch_size=s.batch_size, base_batch_size=prior.base_batch, optimizer=s.moves.name).lr
    return prior.low * min(1, ratio), prior.high * max(1, ratio), min(max(prior.pick * ratio, prior.low), prior.high)


def _attends(s: Setup) -> bool:
    from torch import nn

    if s.start is not None and s.start.attends:
        return True
    kinds = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
    return s.model is not None and any(
        isinstance(m, kinds) or "Attention" in type(m).__name__ for m in s.model.modules()
    )


def _post_norm(s: Setup) -> bool:
    from trivet.facts.model import TRANSFORMER

    return s.model is not None and any(isinstance(m, TRANSFORMER) and not m.norm_first for m in s.model.modules())
