"""The three parts of the data, and how they are drawn: 60 / 20 / 20, stratified, the same for equal seeds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset, default_collate

from trivet.errors import DataError
from trivet.tasks.kinds import Kind

__all__ = [
    "DatasetSplit",
    "Input",
    "Split",
    "TensorSplit",
    "as_split",
    "draw_split",
    "draw_splits",
    "shared_rows",
]

Input = Tensor | tuple[Tensor, ...]
"""What a model is called with: a tensor, or a tuple of tensors given as positional arguments."""

HELD_OUT = 0.2
"""The share of rows for validation, and again for test."""

FEWEST_ROWS = 5
"""No split is smaller."""


class Split(ABC):
    """Rows of ``(input, target)`` that can be taken by index."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batch(self, indices: Tensor) -> tuple[Input, Tensor]:
        """The input and the shaped target of these rows (int64 indices)."""

    @property
    @abstractmethod
    def inputs(self) -> Input | None:
        """All inputs as tensors, or None when the data is a Dataset that is read row by row."""

    @property
    @abstractmethod
    def targets(self) -> Tensor:
        """All targets as one tensor (a Dataset is read through once for this)."""

    @abstractmethod
    def subset(self, indices: Tensor) -> Split:
        """The split of these rows alone."""


class TensorSplit(Split):
    """Rows that are in memory as tensors; a batch is one ``index_select`` per tensor."""

    def __init__(self, inputs: Input, targets: Tensor) -> None:
        self._inputs, self._targets = inputs, targets

    def __len__(self) -> int:
        return len(self._targets)

    def batch(self, indices: Tensor) -> tuple[Input, Tensor]:
        """Take rows by index."""
        targets = self._targets.index_select(0, indices)
        if isinstance(self._inputs, Tensor):
            return self._inputs.index_select(0, indices), targets
        return tuple(part.index_select(0, indices) for part in self._inputs), targets

    @property
    def inputs(self) -> Input:
        """All inputs."""
        return self._inputs

    @property
    def targets(self) -> Tensor:
        """All targets."""
        return self._targets

    def subset(self, indices: Tensor) -> TensorSplit:
        """The split of these rows alone."""
        return TensorSplit(*self.batch(indices))


class DatasetSplit(Split):
    """Rows of a map-style Dataset, collated as torch's DataLoader does."""

    def __init__(self, dataset: Dataset[Any], kind: Kind) -> None:
        self._dataset, self._kind = dataset, kind
        self._targets: Tensor | None = None

    def __len__(self) -> int:
        return len(cast("Sequence[Any]", self._dataset))

    def batch(self, indices: Tensor) -> tuple[Input, Tensor]:
        """Read and collate rows by index."""
        rows = [self._dataset[index] for index in indices.tolist()]
        if not (isinstance(rows[0], (tuple, list)) and len(rows[0]) == 2):
            raise DataError(f"each row of the dataset must be (input, target); a row is {type(rows[0]).__name__}")
        inputs, target = default_collate(rows)
        inputs = tuple(inputs) if isinstance(inputs, list) else inputs
        return inputs, self._kind.shape_target(target)

    @property
    def inputs(self) -> None:
        """None: the inputs are read when needed."""
        return None

    @property
    def targets(self) -> Tensor:
        """All targets, read once and kept."""
        if self._targets is None:
            # torchvision's sets keep their targets beside the images, which spares reading every image.
            stored = getattr(self._dataset, "targets", None)
            if stored is None or len(stored) != len(self):
                stored = torch.stack([torch.as_tensor(self._dataset[index][1]) for index in range(len(self))])
            self._targets = self._kind.shape_target(torch.as_tensor(stored))
        return self._targets

    def subset(self, indices: Tensor) -> DatasetSplit:
        """The split of these rows alone."""
        part = DatasetSplit(Subset(self._dataset, indices.tolist()), self._kind)
        part._targets = None if self._targets is None else self._targets[indices]
        return part


def as_split(data: object, kind: Kind, where: str) -> Split:
    """Wrap a Split, a Dataset of ``(input, target)`` or a pair of tensors; ``where`` names it in errors."""
    if isinstance(data, Split):
        split = data
    elif isinstance(data, TensorDataset) and len(data.tensors) >= 2:
        *inputs, targets = data.tensors
        split = _tensor_split(inputs[0] if len(inputs) == 1 else tuple(inputs), targets, kind, where)
    elif isinstance(data, IterableDataset):
        raise DataError(f"{where}: an IterableDataset cannot be split or shuffled; give a map-style Dataset")
    elif isinstance(data, (tuple, list)) and len(data) == 2 and isinstance(data[1], (Tensor, np.ndarray)):
        split = _tensor_split(data[0], data[1], kind, where)
    elif hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        split = DatasetSplit(cast("Dataset[Any]", data), kind)
    else:
        raise DataError(f"{where} must be a Dataset of (input, target) or a pair of tensors, not {type(data).__name__}")
    if len(split) == 0:
        raise DataError(f"{where} has no rows")
    if where != "train" and len(split) < FEWEST_ROWS:
        raise DataError(f"{where} has {len(split)} rows, too few to judge by; at least {FEWEST_ROWS} are needed")
    return split


def _tensor_split(inputs: object, targets: object, kind: Kind, where: str) -> TensorSplit:
    parts = (
        tuple(torch.as_tensor(part) for part in inputs)
        if isinstance(inputs, (tuple, list))
        else torch.as_tensor(inputs)
    )
    target = torch.as_tensor(targets)
    for part in parts if isinstance(parts, tuple) else (parts,):
        if len(part) != len(target):
            raise DataError(f"{where} has {len(part)} inputs and {len(target)} targets; they must be as many")
        broken = int((~torch.isfinite(part)).sum()) if part.is_floating_point() else 0
        if broken:
            raise DataError(f"{where} has {broken} NaN or infinite input values; impute or remove them first")
    return TensorSplit(parts, kind.shape_target(target))


def draw_split(rows: int, strata: Tensor | None, seed: int, *, share: float = HELD_OUT) -> tuple[Tensor, Tensor]:
    """Draw ``share`` of the rows: ``(rest, drawn)`` as sorted indices, every stratum in both parts.

    >>> rest, drawn = draw_split(10, torch.tensor([0] * 5 + [1] * 5), seed=0)
    >>> len(rest), len(drawn), int((drawn >= 5).sum())
    (8, 2, 1)
    """
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(rows, generator=generator)
    groups = [shuffled]
    if strata is not None:
        groups = [shuffled[strata[shuffled] == label] for label in torch.unique(strata)]
    counts = [min(max(1, round(share * len(group))), len(group) - 1) for group in groups]
    drawn = torch.cat([group[:count] for group, count in zip(groups, counts, strict=True)])
    rest = torch.cat([group[count:] for group, count in zip(groups, counts, strict=True)])
    return rest.sort().values, drawn.sort().values


def draw_splits(
    rows: int,
    strata: Tensor | None,
    seed: int,
    *,
    val: bool,
    test: bool,
    names: Sequence[str] = (),
    groups: Tensor | None = None,
    time: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Row indices of train, and of validation and test where they are to be drawn: 20 % of all rows each.

    With ``groups`` (int64 ``(rows,)``) all rows of a group come into the same split; with ``time`` (numbers
    ``(rows,)``) validation is later than training, and test later still. ``names`` are the classes' names, for
    errors. Raises DataError when rows, of a class, of groups or in all, are too few.
    """
    needed = 1 + val + test
    if rows < FEWEST_ROWS * needed and (val or test):
        parts = ["train", *["validation"] * val, *["test"] * test]
        raise DataError(
            f"{rows} rows are too few to draw {', '.join(parts)}; at least {FEWEST_ROWS * needed} are needed"
        )
    if time is not None or groups is not None:
        # Moments and groups are units: none is torn apart, so that a split may be larger than its share.
        unit = _moments(time) if time is not None else _shuffled(groups, seed)  # type: ignore[arg-type]
        return _whole_units(unit, val, test, "moments" if time is not None else "groups")
    if strata is not None:
        _refuse_rare(strata, needed, names)
    train, val_rows, test_rows = torch.arange(rows), None, None
    if test:
        train, test_rows = draw_split(rows, strata, seed)
    if val:
        share = HELD_OUT / (1 - HELD_OUT) if test else HELD_OUT
        left, drawn = draw_split(len(train), None if strata is None else strata[train], seed + 1, share=share)
        train, val_rows = train[left], train[drawn]
    return train, val_rows, test_rows


def _refuse_rare(strata: Tensor, needed: int, names: Sequence[str]) -> None:
    counts = torch.bincount(strata)
    rare = int(torch.where(counts > 0, counts, len(strata)).argmin())
    count, name = int(counts[rare]), names[rare] if rare < len(names) else str(rare)
    if count < needed:
        raise DataError(
            f"class {name!r} has {'a single sample' if count == 1 else f'{count} samples'}; it needs at "
            f"least {needed}, one for each split: add samples, or merge or remove the class"
        )


def _moments(time: Tensor) -> Tensor:
    """The rank of each row's moment, 0 for the earliest."""
    ranks: Tensor = torch.unique(time, return_inverse=True)[1]
    return ranks


def _shuffled(groups: Tensor, seed: int) -> Tensor:
    """A rank for each row's group, in an order drawn from the seed."""
    distinct, code = torch.unique(groups, return_inverse=True)
    return torch.randperm(len(distinct), generator=torch.Generator().manual_seed(seed))[code]


def _whole_units(unit: Tensor, val: bool, test: bool, what: str) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Cut ranked units into train, validation and test, the last 20 % of rows in test, each unit whole."""
    count = int(unit.max()) + 1
    needed = 1 + val + test
    if count < needed:
        raise DataError(f"there are {count} different {what}; at least {needed} are needed, one for each split")
    # Rows up to and with each rank; a cut lies at the rank nearest to the wanted share, one rank left on each side.
    filled = torch.bincount(unit, minlength=count).cumsum(0).double() / len(unit)

    def cut(share: float, low: int, high: int) -> int:
        return min(max(int((filled - share).abs().argmin()) + 1, low), high)

    last = cut(1 - HELD_OUT, needed - 1, count - 1) if test else count
    first = cut(1 - HELD_OUT * (1 + test), needed - 1 - test, last - 1) if val else last

    def rows(low: int, high: int) -> Tensor:
        return torch.nonzero((unit >= low) & (unit < high)).flatten()

    return rows(0, first), rows(first, last) if val else None, rows(last, count) if test else None


def shared_rows(one: Split, other: Split) -> int:
    """How many rows of ``other`` have an input that occurs in ``one``; 0 when inputs are not in memory."""
    if one.inputs is None or other.inputs is None:
        return 0
    seen = set(_row_hashes(one.inputs))
    return sum(row in seen for row in _row_hashes(other.inputs))


def _row_hashes(inputs: Input) -> list[int]:
    parts = inputs if isinstance(inputs, tuple) else (inputs,)
    arrays = [np.ascontiguousarray(part.reshape(len(part), -1).numpy()) for part in parts]
    return [hash(b"".join(array[row].tobytes() for array in arrays)) for row in range(len(arrays[0]))]
