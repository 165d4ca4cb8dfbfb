"""The model at its start: does a signal get through, does a gradient come back, is the first loss sensible?"""

from __future__ import annotations

import math

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from trivet.advice.lint.base import Setup, found, rule
from trivet.facts.start import Layer
from trivet.recipes import Finding

INITIALISE = "initialise for the activation (He for ReLU: trivet.initialize), or add normalisation layers"
DEAD = 0.5
# Measured on torch's default ReLU networks of width 128 (Adam and SGD, 200 steps, one seed): at a share of 0.18 (five
# layers) they lost hardly more to their normalised twins than two layers did; at 0.03 (seven) SGD ended at twice the
# loss, at 0.002 (ten) Adam too.
DROWNED = 0.1
FADED = 1e-3
GATED = (nn.RNNBase, nn.RNNCellBase)


@rule("TV140", "the model or the loss fails on a batch", source="one step that is thrown away", confidence=1.0)
def fails(s: Setup) -> Finding | None:
    """Before a run begins, one batch goes through the model and the loss. What fails there fails in the run.

    It happens with shapes, types and devices that do not fit. The message is the framework's own.
    """
    if s.start is None or not s.start.failed:
        return None
    return found(
        "TV140",
        "error",
        s.start.failed[0].upper() + s.start.failed[1:].rstrip(".") + ".",
        "make one batch pass: check shapes, types and devices",
        {"rows": s.start.rows},
    )


@rule("TV141", "gradients vanish on the way down", source="Glorot and Bengio 2010; He et al. 2015", confidence=0.85)
def vanishing(s: Setup) -> Finding | None:
    """Each layer multiplies the gradient. If the factor is below one, the lowest layers of a deep model get almost
    nothing: they stay random and the rest learns on noise. Measured: each layer's gradient norm over its weight's
    norm, lowest against highest.

    It happens with sigmoid or tanh in depth, with small initial weights, and without normalisation. Initialise for
    the activation, use ReLU or GELU, normalise, or add residual connections.
    """
    graded = _graded(s)
    if len(graded) < 3:
        return None
    low, high = graded[0], graded[-1]
    ratio = low[1] / high[1]
    if ratio > 1e-4:
        return None
    return found(
        "TV141",
        "warning",
        f"The gradient reaches {low[0].name or 'the first layer'} at {ratio:.1g} of what {high[0].name} gets.",
        INITIALISE,
        {"lowest over highest": ratio, "layers": len(graded)},
        refuted_by="the low layers' gradients grow within the first steps",
    )


@rule(
    "TV142", "signals or gradients explode at the start", source="He et al. 2015; Pascanu et al. 2013", confidence=0.85
)
def exploding(s: Setup) -> Finding | None:
    """If every layer multiplies by more than one, activations or gradients grow from layer to layer until a step
    throws the weights far away. Measured on one batch: activation size from first to last layer, and gradient over
    weight.

    It happens with large initial weights and without normalisation. Initialise for the activation, normalise, and
    clip gradients.
    """
    layers = s.start.layers if s.start is not None else ()
    if len(layers) < 3:
        return None
    growth = layers[-1].activation / max(layers[0].activation, 1e-12)
    graded = _graded(s)
    back = graded[0][1] / graded[-1][1] if len(graded) >= 3 else 0.0
    if not (growth > 1e3 or back > 1e4 or any(not math.isfinite(layer.activation) for layer in layers)):
        return None
    return found(
        "TV142",
        "warning",
        f"Activations grow {growth:.2g} times on the way up, gradients {back:.2g} times on the way down.",
        INITIALISE,
        {"activation growth": growth, "gradient growth": back, "layers": len(layers)},
    )


@rule(
    "TV143",
    "the first loss is far above guessing",
    source="Karpathy 2019, A Recipe for Training Neural Networks",
    confidence=0.85,
)
def first_loss(s: Setup) -> Finding | None:
    """A fresh classifier should know that it knows nothing: its loss is about log(classes). A loss far above that
    means outputs so large that the model is sure and wrong; the first part of the run unlearns it, and saturated
    layers may stay.

    It happens with large initial weights, unscaled inputs, or no normalisation. Scale the last layer's weights down
    and standardise the inputs.
    """
    start = s.start
    if start is None or start.loss is None or start.zero_loss is None or s.pretrained:
        return None
    if "cross_entropy" not in s.loss_name and s.loss_name not in ("nll_loss", "focal_loss", "softmax_focal_loss"):
        return None
    if not start.loss > 2 * start.zero_loss + 1:
        return None
    evidence: dict[str, float | int | str] = {"first loss": start.loss, "loss of equal guesses": start.zero_loss}
    if start.best_constant is not None:
        evidence["best constant"] = start.best_constant
    return found(
        "TV143",
        "warning",
        f"The first loss is {start.loss:.3g}; guessing every class alike gives {start.zero_loss:.3g}.",
        INITIALISE + "; standardise the inputs",
        evidence,
        refuted_by="the model is trained already",
    )


@rule(
    "TV144",
    "units that are all alike",
    source="symmetry breaking: Goodfellow et al. 2016, section 8.4",
    confidence=0.97,
)
def symmetric(s: Setup) -> Finding | None:
    """If all units of a layer begin with the same weights, they get the same gradient and stay the same: a layer of
    1,000 units is one unit.

    It happens with `nn.init.constant_` or `ones_`. Draw the weights at random.
    """
    alike = [layer for layer in (s.start.layers if s.start is not None else ()) if layer.alike]
    if not alike:
        return None
    return found(
        "TV144",
        "error",
        f"All units of {alike[0].name or 'the layer'} have the same weights.",
        INITIALISE,
        {"layers": len(alike), "first": alike[0].name},
    )


@rule("TV145", "no gradient reaches the weights", source="one backward pass that is thrown away", confidence=0.97)
def no_gradient(s: Setup) -> Finding | None:
    """The loss can be computed, and its gradient with respect to every weight matrix is zero: nothing will change.

    It happens with a softmax over one output, weights that are all zero, `detach()` or `no_grad()` in the forward
    pass, and outputs rounded to classes.
    """
    start = s.start
    if start is None or start.loss is None or start.failed or not start.layers:
        return None
    if s.model is None or not any(p.requires_grad for p in s.model.parameters()):
        return None
    if any(layer.gradient for layer in start.layers):
        return None
    if any(layer.gradient is None for layer in start.layers) and (start.gradient_norm or 0.0) > 0:
        return None
    return found(
        "TV145",
        "error",
        "The loss gives no weight matrix a gradient.",
        "look for a softmax over one output, weights that are all zero, detach() or no_grad() in forward()",
        {"gradient norm": start.gradient_norm or 0.0, "layers": len(start.layers)},
    )


@rule(
    "TV146",
    "a deep model without normalisation",
    source="Ioffe and Szegedy 2015; Zhang et al. 2019, Fixup",
    confidence=0.7,
)
def unnormalised(s: Setup) -> Finding | None:
    """In a deep model without normalisation every layer's scale depends on all layers below it. With weights that are
    too small the biases, the same for every row, drown what differs between rows: the top sees nearly equal rows, and
    learning waits until the layers below have grown. Measured on one batch: the share of the output that differs
    between rows, first layer against last but one.

    It happens in networks written by hand, with torch's default weights under ReLU, which shrink a signal to 0.4 of
    its size a layer. Initialise for the activation, or add BatchNorm (images, tables) or LayerNorm (sequences) after
    each layer but the last.
    """
    layers = s.start.layers if s.start is not None else ()
    if s.model is None or len(layers) < 6 or any("Norm" in type(m).__name__ for m in s.model.modules()):
        return None
    if any(isinstance(m, GATED) for m in s.model.modules()) or any(isinstance(m, nn.SELU) for m in s.model.modules()):
        return None
    first, top = layers[0], layers[-2]
    size = top.signal / max(first.signal, 1e-12)
    share = top.signal / max(top.activation, 1e-12) / max(first.signal / max(first.activation, 1e-12), 1e-12)
    if share >= DROWNED and FADED <= size <= 10:
        return None
    return found(
        "TV146",
        "warning",
        f"{len(layers)} layers without a norm: what differs between rows changes {size:.2g} times on the way up, its "
        f"share of the output {share:.2g} times.",
        INITIALISE,
        {"layers": len(layers), "size kept": size, "share kept": share},
    )


@rule("TV147", "dead units", source="Maas et al. 2013; Lu et al. 2019, Dying ReLU", confidence=0.85)
def dead(s: Setup) -> Finding | None:
    """A ReLU unit that is zero on every row has no gradient and does not come back. A layer that has lost most of its
    units passes almost nothing on.

    It happens with large negative biases, unscaled inputs, and after steps that were too long. Initialise anew, use a
    leaky activation, or normalise.
    """
    share = s.start.dead_share if s.start is not None else None
    if share is None or s.start is None or share <= DEAD or s.start.rows < 16:
        return None
    return found(
        "TV147",
        "error" if share > 0.99 else "warning",
        f"{share:.0%} of the units of a ReLU are zero on all {s.start.rows} rows.",
        INITIALISE + ", or use LeakyReLU or GELU",
        {"dead share": share, "rows": s.start.rows},
    )


@rule("TV148", "a model in evaluation mode", source="torch.nn.Module.eval", confidence=0.8)
def evaluating(s: Setup) -> Finding | None:
    """In evaluation mode dropout does nothing and batch normalisation does not learn its statistics.

    It happens after `model.eval()` for a look at the validation split. Call `model.train()` before training.
    """
    if s.recipe is not None or s.model is None or s.model.training:
        return None
    hungry = [m for m in s.model.modules() if isinstance(m, _BatchNorm | nn.modules.dropout._DropoutNd)]
    if not hungry:
        return None
    return found(
        "TV148",
        "warning",
        f"The model is in evaluation mode and has {len(hungry)} layers that behave differently then.",
        "call model.train() before the training loop",
        {"layers": len(hungry)},
    )


@rule("TV149", "batch normalisation over very few rows", source="Wu and He 2018, Group Normalization", confidence=0.85)
def tiny_batches(s: Setup) -> Finding | None:
    """Batch normalisation estimates mean and variance from the batch; from two or three rows these are noise, and
    what is stored for evaluation fits neither.

    It happens when memory forces small batches. Use GroupNorm or LayerNorm, or larger batches (accumulation does not
    help here).
    """
    size = s.recipe.batch_size if s.recipe is not None else s.batch_size
    if size is None or size >= 4 or s.model is None or not any(isinstance(m, _BatchNorm) for m in s.model.modules()):
        return None
    return found(
        "TV149",
        "warning",
        f"Batch normalisation over {size} rows.",
        s.edit("batch_size", 16, "use larger batches, or GroupNorm"),
        {"batch": size},
    )


@rule("TV151", "the first loss is not a number", source="one step that is thrown away", confidence=1.0)
def first_loss_broken(s: Setup) -> Finding | None:
    """Before any step the loss is NaN or infinite, though the data is finite. Every step would spread it.

    It happens with logarithms of zero, divisions by zero, and overflow in float16. Look at the layer whose output is
    the first that is not finite.
    """
    if s.start is None or s.start.loss is None or math.isfinite(s.start.loss):
        return None
    return found(
        "TV151",
        "error",
        f"The first loss is {s.start.loss}.",
        "find the first layer whose output is not finite",
        {"loss": str(s.start.loss)},
    )


def _graded(s: Setup) -> list[tuple[Layer, float]]:
    """Return the layers whose gradient is not exactly zero: branches that start at zero are meant to be silent."""
    return [(layer, layer.gradient) for layer in (s.start.layers if s.start is not None else ()) if layer.gradient]
