"""The rules of the doctor, a file for each family; a rule is one function and its registration."""

from __future__ import annotations

from trivet.doctor.rules.base import ALL, Rule


def catalogue() -> dict[str, Rule]:
    """Return every rule by its code."""
    from trivet.doctor.rules import data, gradients, learning, rate, state  # noqa: F401  (they register themselves)

    return dict(sorted(ALL.items()))


__all__ = ["Rule", "catalogue"]
