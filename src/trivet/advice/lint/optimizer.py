"""The optimizer: what it decays, whose parameters it has, what is clipped, and whether its state fits."""

from __future__ import annotations

from trivet.advice.lint.base import Evidence, Setup, Severity, found, nice, rule
from trivet.errors import InputError
from trivet.optim.memory import memory_plan
from trivet.recipes import Edit, Finding
from trivet.recipes.build import build_optimizer

DECOUPLED = {"Adam": "AdamW", "RAdam": "RAdam", "NAdam": "NAdam", "Adamax": "AdamW"}
MATTERS = 0.1


@rule("TV120", "L2 inside Adam", source="Loshchilov and Hutter 2019, Decoupled Weight Decay", confidence=0.9)
def l2_in_adam(s: Setup) -> Finding | None:
    """`weight_decay` of Adam is added to the gradient and then divided by the gradient's own size: weights with large
    gradients hardly decay, those with small ones decay a lot. That is not the decay that recipes mean.

    It happens by writing Adam where AdamW was meant. Use AdamW (or `decoupled_weight_decay=True`); good values of the
    decay are then larger, 0.01 to 0.1.
    """
    if s.moves is None or s.moves.decoupled or s.moves.weight_decay == 0:
        return None
    m = s.moves
    if m.name in ("RAdam", "NAdam"):
        fix = s.edit("optimizer.decoupled_weight_decay", True, "pass decoupled_weight_decay=True")
    elif s.recipe is not None and m.name == "Adam":
        kept = {k: v for k, v in s.recipe.optimizer.items() if k in ("lr", "betas", "eps", "amsgrad")}
        fix = Edit("optimizer", {**kept, "name": "AdamW", "weight_decay": 0.01})
    else:
        fix = f"use AdamW(lr={m.lr:g}, weight_decay=0.01)"
    return found(
        "TV120",
        "warning",
        f"{m.name} has weight_decay {m.weight_decay:g}, which it divides by the gradient's size.",
        fix,
        {"weight_decay": m.weight_decay},
    )


@rule("TV121", "weight decay on norms and biases", source="He et al. 2019, Bag of Tricks, section 3.1", confidence=0.8)
def decayed_vectors(s: Setup) -> Finding | None:
    """Decay pulls a matrix towards zero because it may be larger than needed. A norm's scale starts at 1 and a bias
    has no reason to be small: decaying them only hurts the fit, the more, the larger rate x decay x steps.

    It happens because `model.parameters()` holds everything. Put biases and norms into a group without decay.
    """
    m = s.moves
    if m is None or m.weight_decay == 0 or m.decayed_vectors == 0:
        return None
    adaptive = m.name not in ("SGD", "LARS", "SGDScheduleFree")
    # Half of the rate stands for its mean over a decaying schedule.
    shrink = 0.5 * m.lr * m.weight_decay * s.steps if s.steps is not None else None
    severe = adaptive and m.decoupled and shrink is not None and shrink >= MATTERS
    evidence: dict[str, float | int | str] = {"numbers": m.decayed_vectors, "weight_decay": m.weight_decay}
    if shrink is not None:
        evidence["rate x decay x steps"] = shrink
    return found(
        "TV121",
        "warning" if severe else "note",
        f"{m.decayed_vectors:,} numbers in biases{' and norms' if m.decays_norms else ''} decay too.",
        s.edit("groups.no_decay", ["bias", "norm"], "use trivet.optim.param_groups(model, ...)"),  # type: ignore[arg-type]
        evidence,
        refuted_by="published recipes for SGD on ResNets decay everything and lose little by it",
    )


@rule("TV122", "parameters that no optimizer has", source="torch.optim", confidence=1.0)
def forgotten(s: Setup) -> Finding | None:
    """A parameter that requires a gradient and is in no group is never trained; it stays random.

    It happens when a layer is added after the optimizer was made, or only a part's parameters are handed over. Make
    the optimizer last, from `model.parameters()`; freeze what is to stay.
    """
    if s.moves is None or not s.moves.forgotten:
        return None
    names = s.moves.forgotten
    shown = ", ".join(names[:4]) + (f", ... ({len(names)} in all)" if len(names) > 4 else "")
    return found(
        "TV122",
        "error",
        f"The optimizer does not have {shown}.",
        "make the optimizer after the model is complete, from model.parameters(), or set requires_grad=False",
        {"tensors": len(names), "first": names[0]},
    )


@rule("TV123", "an optimizer with another model's parameters", source="torch.optim", confidence=0.97)
def strangers(s: Setup) -> Finding | None:
    """The optimizer holds tensors that are not the model's: it trains something, and not this.

    It happens when the model is made, moved or wrapped anew after the optimizer. Make the optimizer last.
    """
    if s.moves is None or not s.moves.strangers:
        return None
    everything = bool(s.moves.forgotten)
    return found(
        "TV123",
        "error" if everything else "note",
        f"The optimizer holds {s.moves.strangers} tensors that are not the model's.",
        "make the optimizer from this model's parameters",
        {"tensors": s.moves.strangers},
        refuted_by="they belong to the loss or to a second model that is trained too",
    )


@rule("TV124", "a parameter given twice", source="torch.optim", confidence=1.0)
def twice(s: Setup) -> Finding | None:
    """A parameter in two groups (or twice in one) is updated twice per step.

    It happens with tied weights and with groups made by hand. Give each tensor once.
    """
    if s.moves is None or not s.moves.twice:
        return None
    return found(
        "TV124",
        "error",
        f"The optimizer has {', '.join(s.moves.twice[:4])} more than once.",
        "give each parameter once",
        {"tensors": len(s.moves.twice)},
    )


@rule("TV125", "everything is frozen", source="torch.autograd", confidence=1.0)
def frozen(s: Setup) -> Finding | None:
    """No parameter requires a gradient: the loss is computed and nothing is learned.

    It happens when a pretrained body is frozen and the head with it. Unfreeze what is to learn.
    """
    if s.model is None or not (parameters := list(s.model.parameters())) or any(p.requires_grad for p in parameters):
        return None
    return found(
        "TV125",
        "error",
        "No parameter of the model requires a gradient.",
        "set requires_grad=True on the parts that are to learn",
        {"tensors": len(parameters)},
    )


@rule("TV126", "clipping far from the gradient's size", source="Pascanu et al. 2013", confidence=0.7)
def clipping(s: Setup) -> Finding | None:
    """A threshold far below the usual gradient norm clips every step: with SGD the rate is then threshold over norm,
    and what was meant as a safeguard is the step length. One far above it never acts.

    It happens when a threshold is carried from another model. Take one to a few times the usual norm.
    """
    norm = s.start.gradient_norm if s.start is not None else None
    limit = (s.recipe.clip or {}).get("norm") if s.recipe is not None else None
    if norm is None or limit is None or norm <= 0:
        return None
    ratio = limit / norm
    if 0.01 <= ratio <= 1000:
        return None
    plain = s.moves is not None and s.moves.name in ("SGD", "LARS")
    severity: Severity = "warning" if ratio < 0.01 and (plain or ratio < 1e-4) else "note"
    what = "so every step is clipped" if ratio < 1 else "so it never acts"
    return found(
        "TV126",
        severity,
        f"Gradients are clipped at {limit:g}; at the start their norm is {norm:.3g}, {what}.",
        s.edit("clip.norm", nice(2 * norm), ""),
        {"clip": limit, "gradient norm": norm},
    )


@rule("TV150", "memory too small for the optimizer's state", source="trivet.optim.memory_plan", confidence=0.95)
def memory(s: Setup) -> Finding | None:
    """Parameters, gradients and the optimizer's state must be in memory at once; Adam keeps two numbers for each
    parameter, Lion one, SGD with momentum one. Activations come on top.

    It happens with large models. Keep the state in bfloat16 or 8 bits, take an optimizer with less state (Lion,
    Adafactor), or shard it over devices (FSDP). For a recipe each of these is planned, and the first that fits is
    the fix.
    """
    if s.plan is None or s.memory is None or s.plan.total <= s.memory:
        return None
    needed, has = s.plan.total / 1e9, s.memory / 1e9
    state = sum(s.plan.states.values())
    fix, after = _smaller(s)
    if not isinstance(fix, Edit) and s.plan.total - 0.74 * state <= s.memory and s.own_script:
        fix = f'keep the state in 8 bits (trivet.optim, state_format="8bit"): it saves {0.74 * state / 1e9:.3g} GB'
    evidence: Evidence = {"needed GB": needed, "available GB": has, "state GB": state / 1e9}
    if after is not None:
        evidence["needed after the fix GB"] = after / 1e9
    message = f"Training needs {needed:.3g} GB without activations; there are {has:.3g} GB."
    return found("TV150", "error", message, fix, evidence)


def _smaller(s: Setup) -> tuple[Edit | str, int | None]:
    """Return the gentlest change of a recipe whose plan fits, with the bytes that it then needs."""
    if s.recipe is not None and s.model is not None and s.moves is not None and s.memory is not None:
        edits = [Edit("optimizer.state_format", form) for form in ("bfloat16", "8bit")]
        if s.moves.name in ("Adam", "AdamW"):
            lion: dict[str, object] = {
                "name": "Lion",
                "lr": nice(s.moves.lr / 5),
                "weight_decay": nice(s.moves.weight_decay * 5),
            }
            edits += [Edit("optimizer", lion | form) for form in ({}, {"state_format": "8bit"})]  # type: ignore[arg-type]
        for edit in edits:
            try:
                plan = memory_plan(s.model, build_optimizer(s.recipe.apply(edit), s.model))
            except InputError:  # the optimizer, or sharded or float64 parameters, know no such format
                continue
            if plan.total <= s.memory:
                return edit, plan.total
    return "shard parameters, gradients and state over several devices (FSDP), or take a smaller model", None
