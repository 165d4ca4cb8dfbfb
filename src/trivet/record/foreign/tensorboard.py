"""TensorBoard event files, read without TensorBoard: records with checksums, and the scalars in them.

The package is not asked even where it is installed: one reader has one behaviour, and ours stops at the first damaged
record instead of raising, bounds what it allocates by the size of the file, and never runs what a file holds. A file
is a chain of `length, crc(length), data, crc(data)`; data is a protobuf `Event` of which only the step, the wall time
and scalar summaries are read (https://github.com/tensorflow/tensorflow, `event.proto`, `summary.proto`).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trivet.errors import RunError
from trivet.record.foreign.log import Raw, Series

LARGEST = 1 << 16  # an event with more bytes holds a graph, an image or a histogram, not a scalar
_HEADER = struct.Struct("<QI")


def read_events(files: dict[Path, str]) -> Raw:
    """Read the event files of one run, in the order of writing; each file's prefix goes before its tags."""
    notes: list[str] = []
    found: dict[str, list[tuple[float, float, float]]] = {}
    for path, prefix in files.items():
        try:
            content = path.read_bytes()
        except OSError as error:
            raise RunError(f"cannot read {path}: {error.strerror}") from error
        for start, length in _sound_records(path, content, notes):
            _take_event(content[start : start + length], prefix, found)
    if not found:
        raise RunError(f"{next(iter(files))} holds no scalars; log some with add_scalar, or give another log")
    series = {}
    for tag, points in found.items():
        columns = np.array(points)
        series[tag] = Series(columns[:, 0], columns[:, 1], columns[:, 2])
    return Raw("TensorBoard event files", series=series, notes=notes)


def _sound_records(path: Path, content: bytes, notes: list[str]) -> list[tuple[int, int]]:
    """Return place and length of every record up to the first damaged one, leaving out those too large to matter."""
    records, place = [], 0
    while place + 12 <= len(content):
        length, _ = _HEADER.unpack_from(content, place)
        if place + 16 + length > len(content):
            break
        records.append((place, length))
        place += 16 + length
    cut = place < len(content)
    data = np.frombuffer(content, np.uint8)
    places = np.array([p for p, _ in records], dtype=np.int64)
    lengths = np.array([n for _, n in records], dtype=np.int64)
    good = _match(data, places, 8) if places.size else np.zeros(0, dtype=bool)
    for length in np.unique(lengths[lengths <= LARGEST]):
        same = np.flatnonzero(lengths == length)
        # Long records of many sizes are no scalars; a short look tells (see `_take_event`).
        if length <= 512:
            good[same] &= _match(data, places[same] + 12, int(length))
    sound = int(np.argmin(good)) if not good.all() else len(records)
    if sound < len(records):
        notes.append(f"{path.name}: record {sound + 1:,} of {len(records):,} is damaged; read up to there")
    elif cut:
        notes.append(f"{path.name} is cut off after {len(records):,} records")
    if not sound:
        raise RunError(f"{path} is not a TensorBoard event file, or its beginning is damaged")
    return [(p + 12, n) for p, n in records[:sound] if n <= LARGEST]


def _match(data: NDArray[np.uint8], places: NDArray[np.int64], length: int) -> NDArray[np.bool_]:
    """Return whether each stretch of one length is followed by its masked CRC-32C; all stretches at once."""
    crc = np.full(places.size, 0xFFFFFFFF, dtype=np.uint32)
    for offset in range(length):
        crc = _CRC[(crc ^ data[places + offset]) & 0xFF] ^ (crc >> np.uint32(8))
    crc = ~crc
    masked = ((crc >> np.uint32(15)) | (crc << np.uint32(17))) + np.uint32(0xA282EAD8)
    end = places + length
    stored = sum(data[end + k].astype(np.uint32) << np.uint32(8 * k) for k in range(4))
    same: NDArray[np.bool_] = masked == stored
    return same


def _crc_table() -> NDArray[np.uint32]:
    """Return the table of CRC-32C (Castagnoli), reflected polynomial 0x82F63B78."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> np.uint32(1)) ^ np.uint32(0x82F63B78), table >> np.uint32(1))
    return table.astype(np.uint32)


_CRC = _crc_table()


def _take_event(event: bytes, prefix: str, found: dict[str, list[tuple[float, float, float]]]) -> None:
    """Add the scalars of one event; a field that is not as expected ends the event, not the reading."""
    step, wall, summaries = 0, math.nan, []
    for field, value in _fields(event):
        if field == 1 and isinstance(value, bytes) and len(value) == 8:
            (wall,) = struct.unpack("<d", value)
        elif field == 2 and isinstance(value, int):
            step = value
        elif field == 5 and isinstance(value, bytes):
            summaries.append(value)
    for summary in summaries:
        for field, value in _fields(summary):
            if field != 1 or not isinstance(value, bytes):
                continue
            tag, number = _scalar(value)
            if tag and number is not None:
                found.setdefault(prefix + tag, []).append((float(step), number, wall))


def _scalar(value: bytes) -> tuple[str, float | None]:
    tag, number = "", None
    for field, part in _fields(value):
        if field == 1 and isinstance(part, bytes):
            tag = part.decode("utf-8", errors="replace")
        elif field == 2 and isinstance(part, bytes) and len(part) == 4:
            (number,) = struct.unpack("<f", part)
        elif field == 8 and isinstance(part, bytes):
            number = _tensor(part)
    return tag, number


def _tensor(tensor: bytes) -> float | None:
    """Return the one number of a scalar tensor (float or double), None for any other tensor."""
    kind, found = 0, None
    for field, part in _fields(tensor):
        if field == 1 and isinstance(part, int):
            kind = part
        elif field == 2 and isinstance(part, bytes) and part:
            return None  # it has dimensions
        elif field in (4, 5, 6) and isinstance(part, bytes):
            found = part
    if kind == 1 and found is not None and len(found) == 4:
        return float(struct.unpack("<f", found)[0])
    if kind == 2 and found is not None and len(found) == 8:
        return float(struct.unpack("<d", found)[0])
    return None


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Walk the fields of a protobuf message: numbers for varints, bytes for all else; stops at what makes no sense."""
    place, end = 0, len(message)
    while place < end:
        key, place = _varint(message, place)
        wire = key & 7
        if wire == 0:
            number, place = _varint(message, place)
            yield key >> 3, number
            continue
        size = {1: 8, 5: 4}.get(wire)
        if wire == 2:
            size, place = _varint(message, place)
        if size is None or place + size > end:
            return
        yield key >> 3, message[place : place + size]
        place += size


def _varint(message: bytes, place: int) -> tuple[int, int]:
    number = shift = 0
    while place < len(message) and shift < 64:
        byte = message[place]
        number |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            return number, place
        shift += 7
    return number, len(message)
