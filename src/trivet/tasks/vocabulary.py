"""Texts as numbers: an own vocabulary of words, pieces of words and characters, built on training texts alone."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trivet.errors import DataError, require
from trivet.tasks.preprocessing import Names, Preprocessing

__all__ = ["CharacterPreprocessing", "TextPreprocessing", "read_lines"]

WORD = re.compile(r"\w+|[^\w\s]")

MOST_WORDS, MOST_PIECES, LONGEST_PIECE = 8000, 3000, 6

FILL, NOTHING = 0, 1
"""Ids: after the end of a text; an empty text, or a character that no training text has."""


def read_lines(path: Path) -> list[str]:
    """The lines of a text file in UTF-8, as texts; DataError when it cannot be read."""
    from trivet.tasks.texts import read_text

    return read_text(path).splitlines()


class TextPreprocessing(Preprocessing, frozen=True, tag="text"):
    """Texts to word ids ``(rows, length)``: frequent words whole, others in pieces, the longest that fits first.

    ``columns`` are the table's columns that are read as one text; ``tokens`` the vocabulary from id 2 on, where a piece
    inside a word begins with ``##``; ``rarity`` each id's logarithm of how rarely it occurs (idf) in training.
    """

    linear_view: ClassVar[str] = "TF-IDF"

    columns: tuple[str, ...]
    tokens: tuple[str, ...]
    rarity: tuple[float, ...]
    length: int

    @classmethod
    def fit(cls, texts: Sequence[str], columns: tuple[str, ...]) -> Self:
        """Build the vocabulary on training texts, and cut longer texts at the length that 95 % of them keep."""
        split = [WORD.findall(text.lower()) for text in texts]
        counts = Counter(word for words in split for word in words)
        whole = [word for word, count in counts.most_common(MOST_WORDS) if count >= 2]
        known = set(whole)
        pieces: Counter[str] = Counter()
        for word, count in counts.items():
            weight = 1 if word in known else count
            for begin in range(len(word)):
                for end in range(begin + 1, min(begin + LONGEST_PIECE, len(word)) + 1):
                    pieces[("##" if begin else "") + word[begin:end]] += weight
        # Every character comes first: with them any word of the training alphabet can be written.
        letters = sorted({p for p in pieces if len(p.removeprefix("##")) == 1})
        parts = [p for p, count in pieces.most_common(MOST_PIECES) if count >= 3]
        tokens = tuple(dict.fromkeys([*letters, *whole, *parts]))
        draft = cls(columns, tokens, (), 10**9)
        ids = [draft.ids(words) for words in split]
        length = max(4, int(np.quantile([len(row) for row in ids], 0.95)))
        seen = Counter(token for row in ids for token in set(row[:length]))
        rarity = tuple(round(math.log((1 + len(texts)) / (1 + seen[at])) + 1, 5) for at in range(len(tokens) + 2))
        return cls(columns, tokens, rarity, min(length, 256))

    @property
    def size(self) -> int:
        """How many ids there are."""
        return len(self.tokens) + 2

    def ids(self, words: Iterable[str], known: dict[str, int] | None = None) -> list[int]:
        """The ids of words; an unknown word in its longest pieces from the left."""
        known = self.known() if known is None else known
        found: list[int] = []
        for word in words:
            if word in known:
                found.append(known[word])
                continue
            begin = 0
            while begin < len(word):
                mark = "##" if begin else ""
                ends = range(min(begin + LONGEST_PIECE, len(word)), begin, -1)
                end = next((end for end in ends if mark + word[begin:end] in known), 0)
                found.append(known[mark + word[begin:end]] if end else NOTHING)
                begin = end or begin + 1
        return found

    def known(self) -> dict[str, int]:
        """The id of every token."""
        return {token: at + 2 for at, token in enumerate(self.tokens)}

    def read(self, data: Any) -> tuple[list[str], Names]:
        """Texts from a table with the training columns, a ``.txt`` file with one text a line, or a list in memory."""
        from trivet.tasks.texts import joined, texts_in_memory

        if isinstance(data, (str, Path)) and str(data).endswith(".txt"):
            return read_lines(Path(data)), {}
        if isinstance(data, (list, tuple)) and all(isinstance(text, str) for text in data):
            return list(data), {}
        return joined(texts_in_memory(data), self.columns), {}

    def encode(self, raw: Sequence[str]) -> Tensor:
        """Ids, filled up with 0; an empty text is the single id 1."""
        known = self.known()
        rows = [self.ids(WORD.findall(text.lower()), known)[: self.length] or [NOTHING] for text in raw]
        encoded = np.zeros((len(rows), self.length), np.int64)
        for at, row in enumerate(rows):
            encoded[at, : len(row)] = row
        return torch.from_numpy(encoded)

    def matrix(self, inputs: Tensor | tuple[Tensor, ...]) -> Any:
        """``(1 + log count) * idf`` of every id, each row of length 1, as a sparse matrix."""
        sparse = require("scipy.sparse", "app")
        assert isinstance(inputs, Tensor)
        rows, columns = (inputs != FILL).nonzero(as_tuple=True)
        ids = inputs[rows, columns].numpy()
        counts = sparse.coo_matrix((np.ones(len(ids)), (rows.numpy(), ids)), (len(inputs), self.size)).tocsr()
        counts.data = (1 + np.log(counts.data)) * np.asarray(self.rarity)[counts.indices]
        length = np.sqrt(np.asarray(counts.multiply(counts).sum(axis=1)).ravel())
        return sparse.diags(1 / np.maximum(length, 1e-12)) @ counts


class CharacterPreprocessing(Preprocessing, frozen=True, tag="characters"):
    """A text as ids of characters: 0 for one that training lacks (and after the end), ``symbols`` from 1 on."""

    symbols: str
    length: int

    @classmethod
    def fit(cls, text: str, length: int) -> Self:
        """Collect the characters of the training text."""
        return cls("".join(sorted(set(text))), length)

    def ids(self, text: str) -> NDArray[np.int64]:
        """The id of every character."""
        known = {symbol: at + 1 for at, symbol in enumerate(self.symbols)}
        return np.fromiter((known.get(symbol, 0) for symbol in text), np.int64, len(text))

    def read(self, data: Any) -> tuple[list[str], Names]:
        """The lines of a text file, or texts in memory; lines shorter than two characters say nothing."""
        lines = read_lines(Path(data)) if isinstance(data, Path) or (isinstance(data, str) and _is_file(data)) else data
        lines = [lines] if isinstance(lines, str) else list(lines)
        kept = [line[: self.length] for line in lines if len(line) >= 2]
        if not kept:
            raise DataError("there is no line of two characters or more to predict")
        return kept, {"text": np.asarray(kept, dtype=object)}

    def encode(self, raw: Sequence[str]) -> Tensor:
        """Ids ``(rows, longest)``, filled up with 0."""
        encoded = np.zeros((len(raw), max(map(len, raw))), np.int64)
        for at, text in enumerate(raw):
            encoded[at, : len(text)] = self.ids(text)
        return torch.from_numpy(encoded)


def _is_file(text: str) -> bool:
    return len(text) < 1000 and "\n" not in text and (text.endswith((".txt", ".txt.gz")) or Path(text).is_file())
