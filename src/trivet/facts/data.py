"""Facts measured on the training split."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec
import torch
from torch import Tensor

from trivet.facts.doubt import ROWS, drift, label_noise
from trivet.tasks.kinds import KINDS, Kind
from trivet.tasks.splits import shared_rows

if TYPE_CHECKING:
    from trivet.tasks import Task

SAMPLE = 20_000
BASELINE_SAMPLE = 4_000
# Looking up every held-out row among more training rows than this would take seconds.
DUPLICATE_ROWS = 200_000
# A residual past this many robust standard deviations counts as an outlier: 0.05 % of a normal distribution.
OUTLIER = 3.5


class DataFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the training split looks like.

    Shares lie in [0, 1]. `residual_kurtosis` is the excess kurtosis (0 for a normal distribution, 3 for a
    Laplace one) and `outlier_share` the share past 3.5 robust standard deviations, both of the residuals of a
    linear fit by Huber's loss: tails of the target that the inputs explain do not count.
    `label_noise` (with its standard error) is `trivet.facts.doubt.label_noise`; `drift_val` and `drift_test` are how
    well a model tells that split's rows from training rows (AUC; 0.5 is alike), `drift_error` their standard error by
    chance. `residual_scale` is their robust standard deviation in units of the target's standard deviation.
    """

    rows: int
    sampled_rows: int
    input_shape: tuple[int, ...]
    outputs: int
    is_image: bool = False
    class_counts: tuple[int, ...] = ()
    minority_share: float | None = None
    imbalance: float | None = None
    prior_entropy: float | None = None
    target_skew: float | None = None
    residual_kurtosis: float | None = None
    residual_scale: float | None = None
    outlier_share: float | None = None
    share_at_maximum: float | None = None
    shared_with_val: float | None = None
    shared_with_test: float | None = None
    label_noise: float | None = None
    label_noise_error: float | None = None
    drift_val: float | None = None
    drift_test: float | None = None
    drift_error: float | None = None


def measure_data(task: Task, *, seed: int = 0) -> DataFacts:
    """Measure the training split of a task, sampled to at most 20,000 rows."""
    rows = len(task.train)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(rows, generator=generator)[:SAMPLE]
    inputs, targets = task.train.batch(chosen)
    first = inputs[0] if isinstance(inputs, tuple) else inputs
    shape = tuple(first.shape[1:])
    basic = DataFacts(
        rows=rows,
        sampled_rows=len(chosen),
        input_shape=shape,
        outputs=task.outputs,
        is_image=len(shape) == 3,
    )
    basic = _with_duplicates(basic, task)
    kind = KINDS[task.kind]
    basic = _with_doubts(basic, task, kind, inputs, targets, seed)
    numbers, counts = kind.numbers(targets), kind.class_counts(targets, task.outputs)
    if numbers is not None:
        return _with_tails(basic, inputs, numbers)
    return basic if counts is None else _with_classes(basic, counts)


def _with_duplicates(basic: DataFacts, task: Task) -> DataFacts:
    if task.train.inputs is None or basic.rows > DUPLICATE_ROWS:
        return basic
    val, test = (shared_rows(task.train, split) / len(split) for split in (task.val, task.test))
    return msgspec.structs.replace(basic, shared_with_val=val, shared_with_test=test)


def _with_doubts(
    basic: DataFacts, task: Task, kind: Kind, inputs: Tensor | tuple[Tensor, ...], targets: Tensor, seed: int
) -> DataFacts:
    """Add label noise and drift where inputs are numbers that distances make sense of; whole numbers are codes."""
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point() or not torch.isfinite(inputs).all():
        return basic
    noise = label_noise(inputs, targets, max(task.outputs, 2), seed=seed) if kind.classifies else None
    moved = []
    for split in (task.val, task.test):
        rows = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))[:ROWS]
        other, _ = split.batch(rows)
        moved.append(drift(inputs, other, seed=seed) if isinstance(other, Tensor) else None)
    val, test = moved
    return msgspec.structs.replace(
        basic,
        label_noise=noise[0] if noise else None,
        label_noise_error=noise[1] if noise else None,
        drift_val=val[0] if val else None,
        drift_test=test[0] if test else None,
        drift_error=max((part[1] for part in moved if part), default=None),
    )


def _with_classes(basic: DataFacts, counts: Tensor) -> DataFacts:
    shares = counts.double() / counts.sum()
    present = shares[shares > 0]
    return msgspec.structs.replace(
        basic,
        class_counts=tuple(counts.tolist()),
        minority_share=float(present.min()),
        imbalance=float(present.max() / present.min()),
        prior_entropy=float(-(present * present.log()).sum()),
    )


def _with_tails(basic: DataFacts, inputs: Tensor | tuple[Tensor, ...], targets: Tensor) -> DataFacts:
    targets = targets[:, :1]  # of several targets the first stands for all
    y = targets.double().flatten()
    spread = float(y.std()) or 1.0
    facts = msgspec.structs.replace(
        basic,
        target_skew=float(((y - y.mean()) / spread).pow(3).mean()),
        share_at_maximum=float((y == y.max()).double().mean()),
    )
    residual = _robust_residual(inputs, targets)
    if residual is None:
        return facts
    centred = residual - residual.median()
    scale = max(1.4826 * float(centred.abs().median()), 1e-12)
    kurtosis = float(residual.sub(residual.mean()).pow(4).mean() / residual.var().pow(2)) - 3
    return msgspec.structs.replace(
        facts,
        residual_kurtosis=kurtosis,
        residual_scale=scale / spread,
        outlier_share=float((centred.abs() > OUTLIER * scale).double().mean()),
    )


def _robust_residual(inputs: Tensor | tuple[Tensor, ...], targets: Tensor) -> Tensor | None:
    """Residuals of a linear Huber fit on a sample of rows, or None where the inputs are no flat numbers."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import HuberRegressor

    first = inputs[0] if isinstance(inputs, tuple) else inputs
    if first.ndim != 2 or not first.is_floating_point() or first.shape[1] == 0:
        return None
    x, y = first[:BASELINE_SAMPLE].double().numpy(), targets[:BASELINE_SAMPLE].double().flatten().numpy()
    if len(y) < 10 * math.isqrt(x.shape[1]) or not x.shape[1] < len(y):
        return None
    import warnings

    with warnings.catch_warnings():
        # An unfinished robust fit still has usable residuals; nothing here depends on the last digit.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = HuberRegressor(epsilon=1.345, alpha=1e-3, max_iter=200).fit(x, y)
    return torch.from_numpy(y - model.predict(x))
