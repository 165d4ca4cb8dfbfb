"""How gradients and activations travel through the layers."""

from __future__ import annotations

import math

import numpy as np

from trivet.doctor.evidence import Column, Evidence, median, tail
from trivet.doctor.rules.base import found, nice, rule, sure
from trivet.recipes import Edit, Finding

SIGMOIDS = ("Sigmoid", "Tanh", "Softsign", "Hardtanh", "Hardsigmoid")


def _middle(columns: Column) -> Column:
    """Return the median over probes for each layer, NaN where it was never seen."""
    return np.array([median(column) for column in columns.T])


def _matrices(e: Evidence) -> np.ndarray:
    """Return which layers have weights that gradients reach, norms and activations left out."""
    grad = np.isfinite(e.layer("grad")).any(axis=0)
    return np.flatnonzero(grad & np.array(["Norm" not in kind for kind in e.setting.kinds], dtype=bool))


@rule("TV206", "vanishing gradients", needs="probes grad", explains="TV203 TV205 TV209 TV221 TV231")
def vanishing(e: Evidence) -> Finding | None:
    """Gradients shrink from layer to layer on their way back, and the first layers do not learn."""
    layers = _matrices(e)
    if layers.size < 4 or (e.learned > 0.35 and not e.delay > 0.2):
        return None
    relative = _middle(e.layer("grad"))[layers] / np.maximum(_middle(e.layer("weight"))[layers], 1e-30)
    first, last = relative[: max(1, layers.size // 3)], relative[-max(1, layers.size // 3) :]
    ratio = median(first) / max(median(last), 1e-30)
    if not (ratio < 1e-2 and median(last) > 0 and e.early_update < 0.05):
        return None
    squashed = [kind for kind in e.setting.kinds if kind in SIGMOIDS]
    cure = (
        f"replace {squashed[0]} by nn.GELU() between the layers (He initialisation), or add x + layer(x) around each"
        if squashed
        else "put nn.LayerNorm after each hidden layer, or add x + layer(x) around each"
    )
    return found(
        "TV206",
        f"Gradients vanish on their way back: the first layers get {ratio:.1g} of what the last ones get.",
        evidence={"first over last (gradient per weight)": ratio, "layers": int(layers.size), "learned": e.gained},
        fix=cure + "; trivet.initialize(model, batch) sets every layer to unit variance",
        refuted_by="the first layers are frozen, or the loss falls as well without them",
        confidence=sure(1e-2, ratio, at=0.75),
        step=float(e.probe_step[-1]),
        layer=e.setting.layers[layers[0]],
    )


@rule(
    "TV207",
    "exploding activations or gradients",
    needs="probes grad",
    explains="TV202 TV204 TV208 TV211 TV213 TV212 TV214 TV215 TV221",
)
def exploding(e: Evidence) -> Finding | None:
    """Every layer multiplies what it gets, so that outputs or gradients grow by orders of magnitude with depth."""
    layers = _matrices(e)
    if layers.size < 4 or (e.learned > 0.5 and e.reason != "diverged"):
        return None
    rms = e.layer("rms")[0, layers] if e.probe_step.size else np.array([])
    seen = np.flatnonzero(np.isfinite(rms) & (rms > 0))
    growth = math.nan
    if seen.size >= 4:
        hidden = np.log(rms[seen[:-1]])
        growth = float(np.exp(np.polyfit(np.arange(hidden.size), hidden, 1)[0]))
    total = growth ** (seen.size - 1) if math.isfinite(growth) else math.nan
    if not (growth > 1.4 and total > 30) or e.setting.normalised:
        return None
    return found(
        "TV207",
        f"Activations grow {growth:.2g}-fold per layer, {total:.1g}-fold in all.",
        evidence={"growth per layer": growth, "loss at the start": e.start, "prior": e.prior, "learned": e.gained},
        fix="trivet.initialize(model, batch) before training; nn.LayerNorm after each hidden layer; until then "
        "clip = {norm = 1.0}",
        refuted_by="the outputs of all layers have about the same size on the first batch",
        confidence=sure(total, 30, at=0.75),
        step=float(e.probe_step[0]),
        layer=e.setting.layers[layers[seen[-1]]],
    )


@rule("TV208", "dead units", needs="probes dead", explains="TV203 TV205 TV206 TV221 TV231")
def dead_units(e: Evidence) -> Finding | None:
    """Most units of a layer give zero for every input, so no gradient reaches them: they are lost for good."""
    dead = e.layer("dead")
    layers = [k for k in _matrices(e)[:-1] if "Embedding" not in e.setting.kinds[k]]
    if not layers or e.gained > 0.5:
        return None
    late = _middle(tail(dead, 0.5))[layers]
    late = np.where(np.isfinite(late), late, 0.0)
    worst = int(np.argmax(late))
    if late[worst] < 0.75:
        return None
    first = float(np.nan_to_num(dead[0, layers[worst]]))
    cause = "from the first step on" if first > 0.5 else "since training began"
    fix: Edit | str = (
        "trivet.initialize(model, batch), biases at 0; nn.LeakyReLU(0.1) or nn.GELU() instead of nn.ReLU()"
    )
    if first <= 0.5 and math.isfinite(e.top_rate):
        fix = Edit("optimizer.lr", nice(e.top_rate / 10))
    return found(
        "TV208",
        f"{late[worst]:.0%} of the units of {e.setting.layers[layers[worst]]} are dead, {cause}.",
        evidence={"dead": float(late[worst]), "dead at the first probe": first, "learned": e.gained},
        fix=fix,
        refuted_by="the units answer to other batches (sparse by design)",
        confidence=sure(1 / max(1.001 - float(late[worst]), 1e-3), 4, at=0.7),
        step=float(e.probe_step[-1]),
        layer=e.setting.layers[layers[worst]],
    )


@rule("TV209", "saturated units", needs="probes saturated", explains="TV203 TV205 TV210 TV221 TV231")
def saturated(e: Evidence) -> Finding | None:
    """A sigmoid or tanh sits at its flat ends for most inputs: its slope, and with it the gradient, is zero there."""
    share = _middle(e.layer("saturated"))
    if not np.isfinite(share).any():
        return None
    worst = int(np.nanargmax(share))
    first = float(np.nan_to_num(e.layer("saturated")[0, worst]))
    if not ((share[worst] > 0.5 and e.learned < 0.6) or (min(first, share[worst]) > 0.75 and e.learned < 0.9)):
        return None
    raw = (e.setting.input_rms or 0.0) > 5
    fix = (
        "standardise the inputs: (x - mean) / std, from the training split"
        if raw
        else ("trivet.initialize(model, batch); nn.LayerNorm before the activation, or nn.GELU() instead of it")
    )
    return found(
        "TV209",
        f"{share[worst]:.0%} of the outputs of {e.setting.layers[worst]} sit at the flat ends of its activation.",
        evidence={"saturated": float(share[worst]), "at the first probe": first, "learned": e.gained},
        fix=fix,
        refuted_by="the layer is a gate that is meant to be open or shut",
        confidence=sure(1 / max(1.001 - float(share[worst]), 1e-3), 2, at=0.65),
        step=float(e.probe_step[0]),
        layer=e.setting.layers[worst],
    )


@rule("TV210", "a saddle or a flat region", needs="probes grad", explains="TV203 TV205 TV206 TV208 TV221 TV231")
def flat(e: Evidence) -> Finding | None:
    """The outputs hardly depend on the inputs and every gradient is tiny: all directions are level."""
    if e.gained > 0.15 or e.setting.symmetric:
        return None
    std, rms = e.layer("std"), e.layer("rms")
    last = [k for k in _matrices(e) if np.isfinite(std[:, k]).any()]
    if not last:
        return None
    inside = std[:, last]
    early = inside[: max(2, len(inside) // 2)]
    middle = _middle(early)
    least = float(np.nanmin(middle) / np.nanmax(middle))
    size = _middle(e.layer("weight")[:, last])
    relative = _middle(e.layer("grad"))[last] / np.maximum(size, 1e-30)
    where = last[int(np.nanargmin(middle))]
    # A layer whose outputs are large and constant is dead or saturated, not flat.
    small = median(rms[:, where]) < 0.03 * np.nanmax(_middle(rms[:, last]))
    if not (small and least < 1e-3 and median(relative) < 0.1 and e.early_update < 0.05):
        return None
    return found(
        "TV210",
        "The outputs hardly depend on the inputs, so every direction is flat.",
        evidence={
            "spread of its outputs, over the widest layer's": least,
            "its size": median(rms[:, where]),
            "learned": e.gained,
        },
        fix="trivet.initialize(model, batch): unit variance in every layer; momentum or AdamW to leave the flat place",
        refuted_by="the spread grows by itself within the next steps (residual branches that start at zero)",
        confidence=sure(1e-3, max(least, 1e-12), at=0.7),
        step=float(e.probe_step[0]),
        layer=e.setting.layers[where],
    )


@rule("TV211", "a bad start", needs="probes setting", explains="TV210 TV205 TV203 TV221 TV231 TV202 TV204 TV213 TV206")
def bad_start(e: Evidence) -> Finding | None:
    """All units of a layer start equal, or the first loss is many times that of a constant output."""
    symmetric = [name for name in e.setting.symmetric if "Norm" not in e.setting.kinds[e.setting.layers.index(name)]]
    hidden = [name for name in symmetric if name != e.setting.layers[-1]]
    if hidden and e.gained < 0.9:
        return found(
            "TV211",
            f"All units of {hidden[0]} start with the same weights, so they stay copies of each other.",
            evidence={"layers with equal units": len(hidden), "learned": e.gained},
            fix="draw the weights at random: nn.init.kaiming_normal_(layer.weight), or trivet.initialize(model, batch)",
            refuted_by="the rows of the weight matrix differ",
            confidence=0.97,
            step=0,
            layer=hidden[0],
        )
    if e.setting.prior is None or not e.prior > 0 or e.start < 4 * e.prior or e.setting.classes is None:
        return None
    # Where one class dominates, a fresh model cannot know: it starts at the loss of an even guess.
    if e.start < 4 * max(e.prior, math.log(e.setting.classes)):
        return None
    if e.learned > 0.75 or (e.learned > 0.4 and e.start < 8 * e.prior and not e.delay > 0.15):
        return None
    raw = (e.setting.input_spread or 0) > 50 or (e.setting.input_rms or 0) > 10
    if raw:
        return None
    return found(
        "TV211",
        f"The first loss is {e.start / e.prior:.1f} times that of a constant guess: the first weights are too large.",
        evidence={"first loss": e.start, "prior": e.prior, "learned": e.gained},
        fix="trivet.initialize(model, batch): unit variance in every layer, output bias at the prior",
        refuted_by="the first loss is near the prior's with freshly drawn weights",
        confidence=sure(e.start / e.prior, 4, at=0.7),
        step=float(e.probe_step[0]),
    )
