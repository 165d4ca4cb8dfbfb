"""How commands speak: one JSON object on stdout for programs, lines for people."""

from __future__ import annotations

import sys
from collections.abc import Mapping

SCHEMA = 1


def emit(data: Mapping[str, object]) -> None:
    """Print one JSON object, with the schema number that says how to read it."""
    import msgspec

    def plain(value: object) -> object:
        from trivet.recipes import Recipe

        return value.as_dict() if isinstance(value, Recipe) else value

    ready = {"schema": SCHEMA} | {key: plain(value) for key, value in data.items()}
    print(msgspec.json.format(msgspec.json.encode(ready), indent=2).decode())


def say(text: str) -> None:
    """Print a line for people to standard error."""
    print(text, file=sys.stderr)
