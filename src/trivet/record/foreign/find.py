"""Which files of a folder are logs, and which of them belong to one run."""

from __future__ import annotations

import os
import re
from pathlib import Path

from trivet.errors import RunError

DEEPEST, MOST_FILES = 5, 20_000
_SPLITS = {
    "train": "train/",
    "training": "train/",
    "validation": "validation/",
    "val": "val/",
    "eval": "eval/",
    "test": "test/",
}
_CHECKPOINT = re.compile(r"checkpoint-\d+$")
# The more a kind of log says, the earlier it stands.
KINDS = ("record", "trainer_state", "csv", "history", "events")


def kind_of(name: str) -> str | None:
    """Return what kind of log a file is by its name, None for other files.

    >>> kind_of("metrics.csv"), kind_of("events.out.tfevents.17.host"), kind_of("model.pt")
    ('csv', 'events', None)
    """
    lower = name.lower()
    if lower == "record.jsonl":
        return "record"
    if lower == "trainer_state.json":
        return "trainer_state"
    if "tfevents" in lower:
        return "events"
    if lower.endswith((".csv", ".csv.gz", ".tsv")):
        return "csv"
    if lower.endswith((".jsonl", ".ndjson")) or lower in ("history.json", "wandb-history.json"):
        return "history"
    return None


def find_run(folder: Path) -> tuple[str, list[Path]]:
    """Return the kind and the files of the one run in a folder; raises `RunError` for none, or lists several."""
    runs: dict[Path, dict[str, list[Path]]] = {}
    for path, kind in logs_in(folder):
        runs.setdefault(_owner(path, kind, folder), {}).setdefault(kind, []).append(path)
    if not runs:
        raise RunError(
            f"{folder} holds no log; read are trainer_state.json, TensorBoard event files, .csv, .jsonl and the runs "
            "that trivet makes"
        )
    if len(runs) > 1:
        names = sorted(str(owner) for owner in runs)
        shown = "\n  ".join(names[:20]) + (f"\n  and {len(names) - 20} more" if len(names) > 20 else "")
        raise RunError(f"{folder} holds {len(runs)} runs; name one of them:\n  {shown}")
    kinds = next(iter(runs.values()))
    kind = next(kind for kind in KINDS if kind in kinds)
    return kind, sorted(kinds[kind])


def prefix(path: Path) -> str:
    """Return what goes before the tags of an event file: the split its folder is named after."""
    return _SPLITS.get(path.parent.name.lower(), "")


def _owner(path: Path, kind: str, folder: Path) -> Path:
    """Return what stands for the run that a file belongs to: its folder, or the file where a folder has many tables."""
    parent = path.parent
    if _CHECKPOINT.search(parent.name):
        return parent.parent
    if kind == "events" and parent.name.lower() in _SPLITS and parent != folder:
        return parent.parent
    if kind in ("csv", "history"):
        others = [p for p in parent.iterdir() if kind_of(p.name) == kind]
        return path if len(others) > 1 else parent
    return parent


def stamp(path: str | Path) -> tuple[tuple[str, int, int, int], ...]:
    """Return what changes when a log does: name, inode, time and size of its files; empty where there is none."""
    where = Path(path)
    if not where.exists():
        where = Path("runs") / where
    try:
        files = [p for p, _ in logs_in(where)] if where.is_dir() else [where]
        return tuple((str(f), s.st_ino, s.st_mtime_ns, s.st_size) for f in files for s in [f.stat()])
    except (OSError, RunError):
        return ()


def logs_in(folder: Path) -> list[tuple[Path, str]]:
    """Return every log file in a folder and below it, with its kind."""
    found, seen = [], 0
    depth = len(folder.parts)

    def refuse(error: OSError) -> None:
        raise RunError(f"cannot look into {error.filename}: {error.strerror}") from error

    for here, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f != "__pycache__")
        if len(Path(here).parts) - depth >= DEEPEST:
            folders.clear()
        seen += len(names)
        if seen > MOST_FILES:
            raise RunError(f"{folder} holds more than {MOST_FILES:,} files; name the folder of the run")
        for name in sorted(names):
            kind = kind_of(name)
            if kind is not None:
                found.append((Path(here) / name, kind))
    return found
