"""What a rule is: a pure function from evidence to a finding or None, with what it needs and what it explains."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

from trivet.doctor.evidence import Evidence
from trivet.recipes import Edit, Finding

Check = Callable[[Evidence], Finding | None]
Severity = Literal["error", "warning", "note"]
ALL: dict[str, Rule] = {}


@dataclasses.dataclass(frozen=True)
class Rule:
    """A mode of failure: how it is recognised, from what, and which other findings are only its consequences.

    `certain` rules state facts (a parameter that no optimizer has); their findings come before those of statistics.
    """

    code: str
    name: str
    needs: frozenset[str]
    explains: frozenset[str]
    certain: bool
    check: Check

    def missing(self, evidence: Evidence) -> list[str]:
        """Return what this rule needs and the evidence lacks."""
        return sorted(self.needs - evidence.has)


def rule(
    code: str, name: str, *, needs: str = "loss", explains: str = "", certain: bool = False
) -> Callable[[Check], Check]:
    """Register a function as the rule of a code; `needs` and `explains` are words separated by spaces."""

    def register(check: Check) -> Check:
        ALL[code] = Rule(code, name, frozenset(needs.split()), frozenset(explains.split()), certain, check)
        return check

    return register


def sure(value: float, threshold: float, *, at: float = 0.6, most: float = 0.97) -> float:
    """Return a confidence that is `at` on the threshold and nears `most` as the value passes it by decades.

    Works for values above their threshold; hand over inverses for those that have to lie below. NaN gives `at`.

    >>> sure(1.0, 1.0), round(sure(10.0, 1.0), 2)
    (0.6, 0.93)
    """
    beyond = math.log10(max(value / threshold, 1.0)) if math.isfinite(value) and threshold > 0 else 0.0
    return most - (most - at) * math.exp(-2.2 * beyond)


def found(
    code: str,
    message: str,
    *,
    evidence: dict[str, float | int | str],
    fix: Edit | str,
    refuted_by: str,
    confidence: float,
    step: float | None = None,
    layer: str = "",
    severity: Severity = "error",
) -> Finding:
    """Build a finding with its numbers rounded for people."""
    shown = {key: float(f"{v:.4g}") if isinstance(v, float) else v for key, v in evidence.items()}
    return Finding(
        code,
        severity,
        message,
        evidence=shown,
        fix=fix,
        step=None if step is None or not math.isfinite(step) else int(step),
        layer=layer,
        confidence=round(float(confidence), 3),
        refuted_by=refuted_by,
    )


def nice(value: float) -> float:
    """Round to two significant digits, as a person would write a rate.

    >>> nice(0.0012345)
    0.0012
    """
    return float(f"{value:.2g}")
