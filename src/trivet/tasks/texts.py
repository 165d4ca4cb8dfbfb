"""Tasks from text: classes of short texts in a table, and the next character of one long text."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trivet.errors import DataError, nearest
from trivet.tasks.kinds import kind_named
from trivet.tasks.models import CausalTransformer
from trivet.tasks.preprocessing import Preprocessing
from trivet.tasks.splits import TensorSplit
from trivet.tasks.vocabulary import CharacterPreprocessing, TextPreprocessing

if TYPE_CHECKING:
    from torch import Tensor, nn

    from trivet.tasks.metrics import Metric
    from trivet.tasks.task import ModelFactory, Task

__all__ = ["joined", "read_text", "task_from_text", "text_fit", "texts_in_memory"]

LARGEST = 256 * 2**20
"""Bytes of text that are read, unfolded."""

LENGTH = 128
"""Characters that a language model of this size sees at once."""

HELD_OUT = 0.1
"""The share of a long text for validation, and again for test: its end."""


def task_from_text(
    text: str | Path,
    *,
    length: int = LENGTH,
    metric: str | Metric | Callable[[Tensor, Tensor], float] | None = None,
    model: ModelFactory | nn.Module | None = None,
    seed: int = 0,
    name: str | None = None,
    source: str | None = None,
    batch_size: int | None = None,
    steps: int | None = None,
) -> Task:
    """Make a language model's task from one long text: predict each character from up to ``length`` before it.

    ``text`` is a path (``.txt``, ``.txt.gz``) or the text itself. The last tenth is the test split, the tenth before
    it validation; a character that training lacks is known as unknown. Raises DataError for a text that is too short.

    >>> task = task_from_text("to be or not to be, that is the question. " * 40, length=16)
    >>> task.kind, task.train.targets.shape, task.metric.name
    ('language', torch.Size([83, 16]), 'bits_per_character')
    """
    from trivet.tasks.task import Task

    path = Path(text) if isinstance(text, Path) or str(text).endswith((".txt", ".txt.gz")) else None
    content = str(text) if path is None else read_text(path)
    cuts = [round(len(content) * (1 - 2 * HELD_OUT)), round(len(content) * (1 - HELD_OUT))]
    parts = content[: cuts[0]], content[cuts[0] : cuts[1]], content[cuts[1] :]
    if len(parts[2]) < 5 * length + 1:
        least = round((5 * length + 1) / HELD_OUT)
        raise DataError(
            f"the text has {len(content):,} characters; at least {least:,} are needed for parts of {length} "
            "(give a longer text, or a smaller length)"
        )
    fitted = CharacterPreprocessing.fit(parts[0], length)
    train, val, test = (_windows(fitted, part, length) for part in parts)
    symbols = len(fitted.symbols) + 1
    unknown = sum(int((part.targets == 0).sum()) for part in (val, test))
    notes = [f"{len(content):,} characters, {symbols - 1} different ones; split by place: test is the end of the text"]
    if unknown:
        notes.append(f"{unknown} characters of validation and test do not occur in training: all one unknown character")
    stem = path.name.split(".")[0] if path is not None else "text"
    return Task(
        model if model is not None else partial(CausalTransformer, symbols=symbols, length=length),
        train, val, test,
        kind="language", metric=metric, batch_size=batch_size, steps=steps, name=name or stem, seed=seed,
        classes=("\N{REPLACEMENT CHARACTER}", *fitted.symbols), source=source or (str(text) if path else "memory"),
        notes=tuple(notes), preprocessing=fitted,
    )  # fmt: skip


def _windows(fitted: CharacterPreprocessing, text: str, length: int) -> TensorSplit:
    """Parts of ``length`` characters, one after the other, and for each place the character that follows."""
    ids = torch.from_numpy(fitted.ids(text))
    rows = (len(ids) - 1) // length
    inputs, following = ids[: rows * length], ids[1 : rows * length + 1]
    kind = kind_named("language")
    return TensorSplit(inputs.reshape(rows, length), kind.shape_target(following.reshape(rows, length)))


def read_text(path: Path) -> str:
    """A text file in UTF-8, perhaps compressed; DataError for damage, other encodings, and unbounded sizes."""
    try:
        with gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb") as file:
            raw = file.read(LARGEST + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path.name} is damaged or cut short: {error}") from error
    except OSError as error:
        raise DataError(f"{str(path)!r} cannot be read: {error.strerror or error}") from error
    if len(raw) > LARGEST:
        raise DataError(f"{path.name} holds more than {LARGEST // 2**20} MB of text; give a part of it")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} is not text in UTF-8 (byte {error.start}); save it as UTF-8") from error
    if not text.strip():
        raise DataError(f"{path.name} is empty")
    if "\0" in text[:4096]:
        raise DataError(f"{path.name} is not text: it holds binary data")
    return text


def texts_in_memory(data: Any) -> Any:
    """A polars frame from a path, a frame or a mapping."""
    from trivet.tasks.tables import table

    return table(data)


def joined(frame: Any, columns: Sequence[str]) -> list[str]:
    """The texts of each row, one column after the other; a missing cell is an empty text."""
    for name in columns:
        if name not in frame.columns:
            raise DataError(
                f"no text column {name!r}{nearest(name, frame.columns) or '.'} Columns: {', '.join(frame.columns)}"
            )
    cells = [["" if value is None else str(value) for value in frame[name].to_list()] for name in columns]
    return ["\n".join(row) for row in zip(*cells, strict=True)]


def text_fit(columns: tuple[str, ...]) -> Callable[[list[str]], tuple[Preprocessing, tuple[str, ...]]]:
    """What fits the vocabulary on the training texts, and says what it found."""

    def fit(texts: list[str]) -> tuple[Preprocessing, tuple[str, ...]]:
        empty = sum(not text.strip() for text in texts)
        if empty == len(texts):
            raise DataError(f"every training text in {', '.join(columns)} is empty; there is nothing to learn from")
        fitted = TextPreprocessing.fit(texts, columns)
        notes = [
            f"text of {', '.join(columns)}: own vocabulary of {fitted.size:,} words and pieces from training texts, "
            f"at most {fitted.length} of them a text"
        ]
        if empty:
            notes.append(f"{empty:,} training texts are empty")
        return fitted, tuple(notes)

    return fit
