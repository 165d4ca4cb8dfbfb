"""Next-token losses for large vocabularies: output layer and cross entropy in one, logits never stored."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trivet.errors import DataError, InputError
from trivet.kernels.rows import Rows, run
from trivet.losses.contract import (
    Loss,
    check_choice,
    check_class_weights,
    check_labels,
    check_positive,
    reduce,
    widen,
)
from trivet.losses.odds import cross_entropy_rule
from trivet.losses.rowwise import Form, executes
from trivet.losses.streaming import block_height, row_blocks, stream

__all__ = ["LinearCrossEntropyLoss", "ZLoss", "linear_cross_entropy", "next_token", "z_loss"]

BLOCK_ELEMENTS = 2**22  # 16 MB of float32: at a vocabulary of 32000 still 131 rows, enough for fast products
CLASSES = 4096  # of the weight's gradient added at a time, where the product must be widened


@dataclass(frozen=True, eq=False)
class _LinearCrossEntropy:
    """The plan that is streamed; operands are hidden states, output weight, and perhaps bias."""

    target: Tensor
    weight: Tensor | None
    smoothing: float
    softcap: float | None
    z_loss: float

    def _of_target(self, target: Tensor, like: Tensor) -> Tensor:
        return like.new_ones(len(target)) if self.weight is None else self.weight[target].to(like.dtype)

    def _smooth(self, logits: Tensor) -> Tensor:
        """Return the sum over classes of weight times logit."""
        return logits.sum(1) if self.weight is None else logits @ self.weight.to(logits.dtype)

    def _total_weight(self, classes: int) -> float:
        return float(classes) if self.weight is None else float(self.weight.sum())

    def rows(self, *operands: Tensor) -> Tensor:
        """Return each row's loss by the formula."""
        logits = widen(nn.functional.linear(*operands))
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        log_z = torch.logsumexp(logits, 1)
        of_target = self._of_target(self.target, logits)
        loss = (1 - self.smoothing) * of_target * (log_z - logits.gather(1, self.target[:, None])[:, 0])
        if self.smoothing:
            classes = logits.shape[1]
            uniform = self._total_weight(classes) * log_z - self._smooth(logits)
            loss = loss + self.smoothing / classes * uniform
        return loss + self.z_loss * of_target * log_z.square() if self.z_loss else loss

    def walk(self, *operands: Tensor, upstream: Tensor | None) -> tuple[Tensor, ...]:
        """Return each row's loss from blocks of rows, and the gradient of every operand."""
        hidden = operands[0]
        wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        values = torch.empty(len(hidden), dtype=wide, device=hidden.device)
        # The weight's gradient adds up over blocks: in float32, whatever the weight is stored in.
        grads = [torch.zeros_like(operand, dtype=wide) for operand in operands] if upstream is not None else []
        self._fill(operands, upstream, values, grads)
        # The block's memory is given back before the gradients are rounded, which takes memory too.
        return values, *(grad.to(operand.dtype) for grad, operand in zip(grads, operands, strict=False))

    def _fill(self, operands: tuple[Tensor, ...], upstream: Tensor | None, values: Tensor, grads: list[Tensor]) -> None:
        hidden, output = operands[:2]
        room = _Room(self, operands, upstream is not None)
        for b in row_blocks(len(hidden), len(output), BLOCK_ELEMENTS):
            logits = room.logits(hidden[b], *operands[1:])
            given = None if upstream is None else upstream[b]
            values[b], by_logit = room.losses(logits, self.target[b], given)
            if given is not None:
                grads[0][b] = by_logit @ output
                _add_product(grads[1], by_logit, hidden[b])
                if len(operands) == 3:
                    grads[2] += by_logit.sum(0, dtype=grads[2].dtype)

    def _block(self, logits: Tensor, target: Tensor, upstream: Tensor | None) -> Tensor:
        """Return the rows' losses; with ``upstream``, leave their gradient in ``logits``."""
        slope = None
        if self.softcap is not None:
            logits.div_(self.softcap).tanh_()
            slope = 1 - logits.square() if upstream is not None else None
            logits.mul_(self.softcap)
        classes, index = logits.shape[1], target[:, None]
        peak = logits.amax(1, keepdim=True)
        logits.sub_(peak)
        of_target = self._of_target(target, logits)
        own = (1 - self.smoothing) * of_target
        by_log_z = own
        loss = -own * logits.gather(1, index)[:, 0]
        if self.smoothing:
            by_log_z = own + self.smoothing / classes * self._total_weight(classes)
            loss -= self.smoothing / classes * self._smooth(logits)
        total = logits.exp_().sum(1)
        log_z = total.log()  # of the shifted logits
        loss += by_log_z * log_z
        if self.z_loss:
            log_z = log_z + peak[:, 0]
            loss += self.z_loss * of_target * log_z.square()
            by_log_z = by_log_z + 2 * self.z_loss * of_target * log_z
        if upstream is not None:
            logits.mul_((upstream * by_log_z / total)[:, None])
            logits.scatter_add_(1, index, -(upstream * own)[:, None])
            if self.smoothing:
                even = logits.new_ones(classes) if self.weight is None else self.weight.to(logits.dtype)
                logits.addr_(upstream, even, alpha=-self.smoothing / classes)
            if slope is not None:
                logits.mul_(slope)
        return loss


class _Room:
    """The memory of one block, used again by every block; and how its losses are computed."""

    def __init__(self, plan: _LinearCrossEntropy, operands: tuple[Tensor, ...], gradient: bool) -> None:
        hidden, output = operands[:2]
        height = min(len(hidden), block_height(len(output), BLOCK_ELEMENTS))
        self.plan, self.gradient = plan, gradient
        self.kernel = (
            plan.softcap is None
            and not plan.z_loss
            and hidden.dtype == output.dtype
            and executes("auto", hidden.detach(), (plan.weight,))
        )
        self.product = hidden.new_empty(height, len(output))
        # In half precision the gradient of a block needs memory of its own: logits are read in another type than sums.
        self.by_logit = torch.empty_like(self.product) if gradient and self.kernel else None

    def logits(self, hidden: Tensor, output: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return the logits of a block of rows."""
        made = self.product[: len(hidden)]
        if bias is None:
            return torch.mm(hidden, output.T, out=made)
        return torch.addmm(bias, hidden, output.T, out=made)

    def losses(self, logits: Tensor, target: Tensor, upstream: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the rows' losses, and with ``upstream`` their gradient by the logits in the logits' type."""
        if not self.kernel:
            wide = widen(logits)
            values = self.plan._block(wide, target, upstream)
            return values, wide if wide is logits else logits.copy_(wide)
        plan = self.plan
        weight = None if plan.weight is None else plan.weight.to(widen(logits).dtype)
        form = Form(cross_entropy_rule, smoothing=plan.smoothing, weight=weight)
        by_logit = None if self.by_logit is None else self.by_logit[: len(logits)]
        values = torch.empty(len(logits), dtype=widen(logits[:0]).dtype)
        run(form, Rows(logits, target, None, None, -1), gradient=by_logit, upstream=upstream, values=values)
        return values, logits if by_logit is None else by_logit


def _add_product(total: Tensor, by_logit: Tensor, hidden: Tensor) -> None:
    """Add ``by_logit.T @ hidden`` to a total that may be wider, some classes at a time."""
    if total.dtype == by_logit.dtype:
        total.addmm_(by_logit.T, hidden)
        return
    for c in range(0, len(total), CLASSES):
        total[c : c + CLASSES] += by_logit[:, c : c + CLASSES].T @ hidden


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    softcap: float | None = None,
    z_loss: float = 0.0,
    reduction: str = "mean",
    empty: str = "zero",
    sample_weight: Tensor | None = None,
) -> Tensor:
    r"""Cross entropy of ``input @ linear_weight.T + linear_bias``, a block of tokens at a time.

    With logits :math:`z` (after the cap :math:`c \tanh(z / c)` if any), :math:`L = \log\sum_k e^{z_k}`, class
    weights :math:`w` and V classes:

    .. math:: \ell = (1 - \epsilon)\, w_y (L - z_y) + \frac{\epsilon}{V} \sum_k w_k (L - z_k)
              + \zeta\, w_y L^2

    Sums are float32 for bfloat16 and float16 (torch
    2.13's chunked form adds up in bfloat16 and is 4 to 11 % low). Ignored tokens cost nothing: they are left
    out before the product.

    When: the vocabulary is large: the logits of 1024 tokens and 32000 classes are 131 MB, and backward needs them
      three times over.
    When not: the logits themselves are wanted; small vocabularies, where one product is faster.
    Cost: the three products of hidden states and output layer; memory: the gradients and one block.

    Args:
        input: hidden states ``(..., features)``.
        linear_weight: output layer ``(classes, features)``, the embedding matrix when tied.
        target: integer labels ``(...)``.
        linear_bias: output bias ``(classes,)``.
        weight: class weights ``(classes,)``.
        ignore_index: a label that takes no part.
        label_smoothing: :math:`\epsilon` in [0, 1], weighted per class as torch does.
        softcap: :math:`c`, logits stay within (-c, c).
        z_loss: :math:`\zeta`, keeps the partition function near 1 (PaLM: 1e-4).
        reduction: ``"mean"``: divided by the weights of the labels that take part; ``"sum"``; ``"none"``:
            ``(...)``.
        empty: value when every label is ignored, ``"zero"`` or ``"nan"``.
        sample_weight: weight of each token ``(...)``.

    Raises:
        DataError: shapes that do not fit, or a label out of range.
        InputError: a smoothing outside [0, 1], or a cap that is not positive.

    >>> hidden, output = torch.eye(3), torch.eye(3)
    >>> round(linear_cross_entropy(hidden, output, torch.arange(3)).item(), 4)  # log(1 + 2/e)
    0.5514

    Source: Wijmans et al. 2024, "Cut your losses"; z-loss: Chowdhery et al. 2022, "PaLM", section 5.
    """
    check_choice("reduction", reduction, ("mean", "sum", "none"))
    _check(input, linear_weight, target, ignore_index)
    check_class_weights(weight, len(linear_weight))
    if not 0 <= label_smoothing <= 1:
        raise InputError(f"label_smoothing={label_smoothing}; allowed is a number in [0, 1]")
    if softcap is not None:
        check_positive("softcap", softcap)
    labels = target.reshape(-1)
    kept = (labels != ignore_index).nonzero()[:, 0]
    hidden = input.reshape(-1, input.shape[-1])[kept]
    plan = _LinearCrossEntropy(labels[kept], weight, label_smoothing, softcap, z_loss)
    operands = (hidden, linear_weight) if linear_bias is None else (hidden, linear_weight, linear_bias)
    rows = torch.ones_like(labels[kept], dtype=widen(input[:0]).dtype)
    if sample_weight is not None:
        rows = sample_weight.reshape(-1)[kept].to(rows.dtype)
    if reduction == "none":
        values = reduce(stream(plan, *operands, weight=None), rows, reduction="none")
        return values.new_zeros(len(labels)).index_put((kept,), values).reshape(target.shape)
    total = stream(plan, *operands, weight=rows)
    count = rows.sum() if weight is None else rows @ weight.to(rows.dtype)[labels[kept]]
    return reduce(total, reduction=reduction, empty=empty, normalizer=count)


def _check(input: Tensor, linear_weight: Tensor, target: Tensor, ignore_index: int) -> None:
    if input.shape[:-1] != target.shape or input.shape[-1:] != linear_weight.shape[1:]:
        raise DataError(
            f"input {tuple(input.shape)}, linear_weight {tuple(linear_weight.shape)} and "
            f"target {tuple(target.shape)}; allowed are (..., features), (classes, features) and (...)"
        )
    if target.is_floating_point():
        raise DataError("target holds probabilities; linear_cross_entropy takes integer labels")
    check_labels(target, len(linear_weight), ignore_index)


def next_token(
    input: Tensor, tokens: Tensor, *, mask: Tensor | None = None, ignore_index: int = -100
) -> tuple[Tensor, Tensor]:
    """Pair each position with the token that follows it: ``input[:, :-1]`` and ``tokens[:, 1:]``.

    Args:
        input: hidden states or logits ``(batch, length, ...)``.
        tokens: token numbers ``(batch, length)``.
        mask: True or 1 where a token is real ``(batch, length)``; the others become ``ignore_index``.
        ignore_index: the label of tokens that take no part.

    >>> hidden, target = next_token(torch.zeros(1, 3, 2), torch.tensor([[5, 6, 7]]))
    >>> hidden.shape, target
    (torch.Size([1, 2, 2]), tensor([[6, 7]]))
    """
    if input.shape[:2] != tokens.shape:
        raise DataError(
            f"input {tuple(input.shape)} and tokens {tuple(tokens.shape)}; allowed are (batch, length, ...) "
            "and (batch, length)"
        )
    target = tokens[:, 1:]
    if mask is not None:
        target = torch.where(mask[:, 1:].bool(), target, ignore_index)
    return input[:, :-1], target


def z_loss(
    input: Tensor,
    target: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    empty: str = "zero",
    sample_weight: Tensor | None = None,
) -> Tensor:
    r"""Square of the log partition function: keeps logits from drifting. Add about 1e-4 of it to a cross
    entropy.

    .. math:: \ell = \Bigl(\log \sum_k e^{z_k}\Bigr)^2

    When: training in half precision, or logits that grow until the loss spikes.
    When not: a loss of its own: it does not know the target.
    Cost: one pass; memory: two copies of the logits.

    Args:
        input: logits ``(batch, classes, ...)``.
        target: labels ``(batch, ...)``, only to know which are ignored; may be None.
        ignore_index: a label that takes no part.
        reduction: ``"mean"`` over weighted rows that take part, ``"sum"``, ``"none"``.
        empty: value when no row takes part, ``"zero"`` or ``"nan"``.
        sample_weight: weight of each row ``(batch, ...)`` or ``(batch,)``.

    >>> z_loss(torch.zeros(2, 1)).item()
    0.0

    Source: Chowdhery et al. 2022, "PaLM", section 5.
    """
    values = torch.logsumexp(widen(input), 1).square()
    weight = torch.ones_like(values) if target is None else (target != ignore_index).to(values.dtype)
    if sample_weight is not None:
        weight = weight * sample_weight.reshape(sample_weight.shape + (1,) * (values.ndim - sample_weight.ndim))
    return reduce(values, weight, reduction=reduction, empty=empty)


class ZLoss(Loss, function=z_loss, kind="multiclass"): ...


class LinearCrossEntropyLoss(Loss, function=linear_cross_entropy, kind="language"):
    """:func:`linear_cross_entropy` with its output layer; give ``loss.parameters()`` to the optimizer too.

    To tie it to an embedding: ``loss.linear_weight = embedding.weight``.
    """

    linear_weight: Tensor
    linear_bias: Tensor | None

    def __init__(self, in_features: int, num_classes: int, *, bias: bool = False, **hyperparameters: object) -> None:
        layer = nn.Linear(in_features, num_classes, bias=bias)
        super().__init__(linear_weight=layer.weight, linear_bias=layer.bias, **hyperparameters)

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        keywords = {name: getattr(self, name) for name in self.hyperparameters if name != "linear_weight"}
        return linear_cross_entropy(input, self.linear_weight, target, sample_weight=sample_weight, **keywords)
