"""Ask every rule, drop what another finding explains, put the root cause first."""

from __future__ import annotations

import warnings

import numpy as np

from trivet.doctor import rules
from trivet.doctor.evidence import Evidence, as_evidence
from trivet.recipes import Finding
from trivet.record import Record

_ORDER = {"error": 0, "warning": 1, "note": 2}


def examine(record: Record) -> list[Finding]:
    """Return what is wrong with a run, the root cause first; an empty list where nothing is.

    Works on any `Record`, one made from another tool's log included: rules whose evidence is missing are not asked
    (`undecidable` names them). A finding that another one explains (dead units after a rate that was too high) is left
    out. Notes, which need no action, come last.

    >>> from trivet.record import Record, Step
    >>> steps = tuple(Step(k, 2.3 * 1.2**k, 0.5, 0.0) for k in range(1, 40))
    >>> [finding.code for finding in examine(Record(steps=steps))]
    ['TV202']
    """
    return judge(as_evidence(record))


def judge(evidence: Evidence) -> list[Finding]:
    """Return the ranked findings for evidence that is already in columns."""
    known = rules.catalogue()
    # Infinite and missing numbers are what rules are for; numpy need not warn of them.
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        answers = [one.check(evidence) for one in known.values() if not one.missing(evidence)]
    findings = [finding for finding in answers if finding is not None]
    explained = {code for finding in findings if finding.severity != "note" for code in known[finding.code].explains}
    kept = [finding for finding in findings if finding.code not in explained]
    return sorted(kept, key=lambda f: (_ORDER[f.severity], not known[f.code].certain, -f.confidence))


def undecidable(record: Record) -> dict[str, str]:
    """Return the codes that cannot be decided from this record, each with what is missing.

    >>> from trivet.record import Record
    >>> undecidable(Record())["TV202"]
    'needs loss'
    """
    evidence = as_evidence(record)
    lacking = {code: one.missing(evidence) for code, one in rules.catalogue().items()}
    return {code: "needs " + ", ".join(missing) for code, missing in lacking.items() if missing}
