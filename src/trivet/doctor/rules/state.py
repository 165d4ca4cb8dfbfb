"""Facts: things that are wrong whatever the curve looks like. They are asked first and believed first."""

from __future__ import annotations

import math

import numpy as np

from trivet.doctor.evidence import Evidence, median, tail
from trivet.doctor.rules.base import found, nice, rule
from trivet.recipes import Edit, Finding

EVERYTHING = (
    "TV202 TV203 TV204 TV205 TV206 TV207 TV208 TV209 TV210 TV211 TV212 TV213 TV214 TV215 TV217 TV218 TV219 TV220 TV221 "
    "TV222 TV223 TV225 TV230 TV231"
)


@rule("TV201", "a number that is not finite", needs="setting", explains=EVERYTHING, certain=True)
def bad_input(e: Evidence) -> Finding | None:
    """NaN or infinity in the data itself: one step spreads it to all weights."""
    bad = e.number("bad_inputs")
    rows = np.flatnonzero(bad > 0)
    if not rows.size:
        return _bad_layer(e)
    at = int(rows[0])
    return found(
        "TV201",
        f"The inputs hold numbers that are not finite, first seen at step {e.probe_step[at]:.0f}.",
        evidence={"numbers not finite in that batch": float(bad[at])},
        fix="find the rows with torch.isfinite(x).all(dim=1), then drop or impute them before training",
        refuted_by="every input of the training split is finite",
        confidence=0.99,
        step=e.probe_step[at],
    )


def _bad_layer(e: Evidence) -> Finding | None:
    """A layer that turned sound inputs into NaN while the loss was quiet: an operation outside its domain."""
    made = e.number("bad_layer")
    seen = np.flatnonzero(np.isfinite(made))
    quiet = e.finite_loss.size == 0 or np.max(e.finite_loss) < 1.5 * max(e.start, e.prior)
    if not seen.size or not quiet or e.early_update > 0.1:
        return None
    layer = e.setting.layers[int(made[seen[0]])]
    return found(
        "TV201",
        f"{layer} made numbers that are not finite out of sound ones, while the loss was quiet.",
        evidence={"largest loss before": float(np.max(e.finite_loss, initial=-math.inf))},
        fix="keep log, sqrt and division away from zero in that layer: add an epsilon, or clamp",
        refuted_by="the loss was rising before (then the rate is too high)",
        confidence=0.8,
        step=e.probe_step[seen[0]],
        layer=layer,
    )


@rule(
    "TV216", "softmax before a loss that takes logits", needs="probes number:row_sum", explains=EVERYTHING, certain=True
)
def double_softmax(e: Evidence) -> Finding | None:
    """The outputs are probabilities already, and cross entropy takes its own softmax of them.

    The loss cannot fall below ln(1 + (C - 1) / e), gradients shrink, training crawls.
    """
    share, ce = median(e.number("row_sum")), median(e.number("is_ce"))
    named = "CrossEntropy" in e.setting.loss or "Softmax" in e.setting.loss
    if not (share >= 0.99 and (ce == 1 or named)):
        return None
    classes = e.setting.classes or 0
    floor = math.log(1 + (classes - 1) / math.e) if classes > 1 else math.nan
    return found(
        "TV216",
        "The model ends in a softmax, and the loss applies another one: it takes logits.",
        evidence={"share of output rows that sum to 1": share, "lowest loss this allows": floor},
        fix="remove the softmax at the end of the model (keep it for showing probabilities only)",
        refuted_by="the outputs of some rows do not sum to 1, or the loss takes probabilities",
        confidence=0.99,
        step=e.probe_step[0],
    )


@rule("TV224", "gradients that are never cleared", needs="probes number:stale", explains=EVERYTHING, certain=True)
def stale_gradients(e: Evidence) -> Finding | None:
    """The first backward pass after a step adds to the last step's gradients: each step repeats all before it."""
    stale = e.number("stale")
    seen = stale[np.isfinite(stale)]
    if seen.size < 3 or seen[1:].mean() < 0.9:
        return None
    return found(
        "TV224",
        "Gradients are not cleared between steps, so each step repeats all earlier ones.",
        evidence={"probed steps that began with old gradients": float(seen[1:].mean())},
        fix="call optimizer.zero_grad() once per step, before loss.backward()",
        refuted_by="the gradients are zero or None before the first backward pass after a step",
        confidence=0.99,
        step=e.probe_step[1],
    )


@rule("TV226", "parameters that no optimizer has", needs="setting", explains="TV203 TV205 TV221 TV231", certain=True)
def unowned(e: Evidence) -> Finding | None:
    """Trainable parameters were not given to the optimizer: they keep their initial values for ever."""
    names = e.setting.unowned
    if not names:
        return None
    grad = e.layer("grad")
    owners = {name.rpartition(".")[0] or "(model)" for name in names}
    columns = [k for k, layer in enumerate(e.setting.layers) if layer in owners]
    alive = bool(columns) and bool((np.nan_to_num(grad[:, columns]) > 0).any())
    if grad.size and not alive:
        return None
    return found(
        "TV226",
        f"{len(names)} trainable parameters are in no optimizer, {names[0]} among them.",
        evidence={"parameters": len(names), "first": names[0]},
        fix="give the optimizer all of them, after the model is complete: Optimizer(model.parameters(), ...); "
        "or freeze them with requires_grad_(False) if that is meant",
        refuted_by="another optimizer, which is not watched, has them",
        confidence=0.97,
        layer=names[0].rpartition(".")[0],
    )


@rule("TV227", "training in evaluation mode", needs="probes number:training setting", certain=True)
def evaluation_mode(e: Evidence) -> Finding | None:
    """`model.eval()` was never undone: dropout is off and batch statistics are frozen while the weights move."""
    training = e.number("training")
    seen = training[np.isfinite(training)]
    if seen.size < 3 or not e.setting.hungry or seen[-max(3, seen.size // 2) :].mean() > 0.1:
        return None
    first = int(np.flatnonzero(np.isfinite(training) & (training == 0))[0])
    return found(
        "TV227",
        "The model trains in evaluation mode: dropout is off, batch statistics do not follow.",
        evidence={"probed steps in evaluation mode": float(1 - seen.mean()), "layers that mind": e.setting.hungry[0]},
        fix="call model.train() before the training batches, after every evaluation",
        refuted_by="the frozen statistics are meant (fine-tuning with frozen normalisation)",
        confidence=0.95,
        step=e.probe_step[first],
        layer=e.setting.hungry[0],
    )


@rule("TV228", "sorted data", needs="probes number:label_entropy", explains=EVERYTHING, certain=True)
def sorted_data(e: Evidence) -> Finding | None:
    """Batches hold far fewer classes than the data: the model learns the newest class and forgets the last one."""
    batch = e.number("label_entropy")
    columns = [np.nan_to_num(column) for name, column in e.numbers.items() if name.startswith("seen.")]
    if len(columns) < 2:
        return None
    counts = np.stack(columns, axis=1)[np.isfinite(batch)]  # (probes, classes)
    if len(counts) < 4 or counts.sum() < 8 * len(counts):
        return None
    whole = _entropy(counts.sum(axis=0))
    expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0) / counts.sum()
    # Pearson's statistic of each batch against all of them: about C - 1 where batches are drawn at random.
    apart = np.nansum((counts - expected) ** 2 / np.maximum(expected, 1e-9), axis=1) / (counts.shape[1] - 1)
    if not (whole > 0.2 and np.median(apart) > 3):
        return None
    return found(
        "TV228",
        "Batches differ in their classes far more than by chance: the data is sorted and not shuffled.",
        evidence={
            "difference of batches (1 is chance)": float(np.median(apart)),
            "label entropy in a batch": median(batch),
            "over all batches": whole,
        },
        fix="shuffle the training data: DataLoader(..., shuffle=True)",
        refuted_by="batches of one class are meant (some metric-learning samplers)",
        confidence=0.97,
        step=e.probe_step[0],
    )


@rule("TV229", "climbing instead of descending", needs="loss", explains=EVERYTHING, certain=True)
def climbing(e: Evidence) -> Finding | None:
    """The loss is maximised: its sign, or the optimizer's, is turned round."""
    # The first step of any optimizer goes with its own gradient; later ones carry momentum.
    descent = float(e.number("descent")[0]) if e.probe_step.size else math.nan
    turned = e.setting.maximize or descent < -0.05
    loss = e.finite_loss
    if loss.size < 8:
        return None
    falls = np.diff(e.smooth)
    rises = e.smooth[-1] > e.start + 0.05 * e.unit and (falls > 0).mean() > 0.9 and loss.size > 20
    negative = e.setting.prior is not None and e.setting.prior > 0 and e.final < -0.05 * e.prior
    # A step that is much too long also raises the loss, but not evenly: neighbours then lie on both sides.
    if not ((turned and e.final > e.start + 0.05 * e.unit) or negative or (rises and _steady(e))):
        return None
    return found(
        "TV229",
        "The loss is driven up, steadily: the sign of the loss or of the step is turned round.",
        evidence={"loss at the start": e.start, "at the end": e.final, "cosine of step and descent": descent},
        fix="remove the minus sign before the loss, and maximize=True from the optimizer",
        refuted_by="the loss falls when the rate is a tenth",
        confidence=0.95 if turned or negative else 0.8,
        step=float(e.step[-1]),
    )


def _steady(e: Evidence) -> bool:
    """Whether the loss rises from the very start, without a jump, by small updates or gentle ones in a log."""
    if "update" in e.has:
        return e.early_update < 0.05 and median(e.number("turn")) > 0.0
    return False


def _entropy(counts: np.ndarray) -> float:
    total = counts.sum()
    shares = counts[counts > 0] / total if total > 0 else counts[:0]
    return float(-(shares * np.log(shares)).sum())


@rule("TV225", "clipping nearly everything", needs="probes number:shrunk", explains="TV203 TV205 TV221")
def over_clipped(e: Evidence) -> Finding | None:
    """Clipping cuts most gradients to a small part: its bound, not the rate, decides how long a step is."""
    shrunk = e.number("shrunk")
    seen = shrunk[np.isfinite(shrunk)]
    # Loss scaling for half precision divides by a power of two; that is no clipping.
    powers = np.log2(np.maximum(seen, 1e-30))
    seen = np.where(np.abs(powers - np.round(powers)) < 1e-4, 1.0, seen)
    if seen.size < 4:
        return None
    late = tail(seen, 0.6)
    share, factor = float((seen < 0.99).mean()), median(late)
    adaptive = e.setting.optimizer in ("Adam", "AdamW", "NAdam", "RAdam", "Lion", "RMSprop", "Adagrad", "Adadelta")
    # An adaptive optimizer divides the size of its gradients out again: the bound does nothing there.
    if share < 0.5 or not 1e-12 < factor < 0.1 or adaptive or e.gained > 0.7:
        return None
    return found(
        "TV225",
        f"Clipping cuts {share:.0%} of the gradients, typically to {factor:.2g} of their length.",
        evidence={"share of steps clipped": share, "what is left": factor, "learned so far": e.gained},
        fix=Edit("optimizer.lr", nice(e.top_rate / factor)) if math.isfinite(e.top_rate) else "raise the bound tenfold",
        refuted_by="the loss falls no faster with the bound ten times as high",
        confidence=0.85,
        step=float(e.probe_step[-1]),
    )
