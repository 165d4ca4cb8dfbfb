"""The doctor after the fact: from a log of any tool to what went wrong, and what that log cannot tell."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

import msgspec

from trivet.doctor import rules
from trivet.doctor.examine import examine, undecidable
from trivet.errors import InputError
from trivet.recipes import Edit, Finding
from trivet.record import Record, Setting
from trivet.record.foreign import Log, read_log

# What a rule needs, in words, and how to get it; the first that fits is said.
_NEEDS = {
    "setting": "a look into the model (two lines: w = trivet.watch(model, optimizer); w.step(loss))",
    "prior": "the loss of the best constant answer (--prior 2.303 for ten balanced classes)",
    "eval_loss": "a validation loss, logged at least three times",
    "recalls": "the recall of each class",
    "metric": "a metric on validation data, logged at least three times",
    "lr": "the learning rate",
    "loss": "a training loss, logged at least five times",
}
# The field of a recipe in the words of the tool that wrote the log.
_WORDS = {
    "optimizer.lr": ("the learning rate", "TrainingArguments(learning_rate={})", "lr={} of the optimizer"),
    "optimizer.weight_decay": (
        "the weight decay", "TrainingArguments(weight_decay={})", "weight_decay={} of the optimizer",
    ),
    "epochs": ("the number of epochs", "TrainingArguments(num_train_epochs={})", "Trainer(max_epochs={})"),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What the doctor says of one log: findings, the root cause first, and which modes could be seen at all.

    `decided` names the modes that this log can show, by code; `undecided` those that it cannot, with what is missing.
    """

    log: Log
    findings: tuple[Finding, ...]
    decided: dict[str, str]
    undecided: dict[str, str]

    @property
    def failed(self) -> bool:
        """Whether an error was found (a warning or a note is none)."""
        return any(finding.severity == "error" for finding in self.findings)

    def fix(self, finding: Finding) -> str:
        """Return what to do about a finding in words, and in those of the tool that wrote the log where they differ."""
        if not isinstance(finding.fix, Edit):
            return finding.fix
        said = f"set {finding.fix}"
        names = _WORDS.get(finding.fix.path)
        if names is None:
            return said
        name, hugging, lightning = names
        said = f"set {name} to {finding.fix.value:g}" if isinstance(finding.fix.value, float | int) else said
        if "Hugging Face" in self.log.format:
            return f"{said}: {hugging.format(finding.fix.value)}"
        if "Lightning" in self.log.format:
            return f"{said}: {lightning.format(finding.fix.value)}"
        return f"{said} ({finding.fix})"

    def name(self, finding: Finding) -> str:
        """Return the name of a finding's mode, in words."""
        known = rules.catalogue().get(finding.code)
        return known.name if known is not None else "found while the run went on"

    def missing(self) -> dict[str, list[str]]:
        """Return what this log lacks, each with the names of the modes that it would decide."""
        grouped: dict[str, list[str]] = {}
        names = {code: rule.name for code, rule in rules.catalogue().items()}
        for code, reason in self.undecided.items():
            grouped.setdefault(reason, []).append(names[code])
        return grouped


def diagnose(
    source: str | Path | Record,
    *,
    columns: Mapping[str, str] | None = None,
    run: str | None = None,
    prior: float | None = None,
) -> list[Finding]:
    """Return what is wrong with a run, the root cause first, from its log or record; an empty list for nothing.

    `source` is a run of trivet (its directory or name), a `Record`, or a log that another tool wrote: see
    `trivet.record.foreign.read_log` for the formats, `columns` and `run`. `prior` is the loss of the best constant
    answer, where you know it (the entropy of the classes for cross entropy, the target's variance for squared error):
    with it, more can be told from a loss curve alone. Raises `RunError` for what is no log.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "log.csv"
    >>> _ = path.write_text("step,loss\\n" + "\\n".join(f"{k},{2.3 * 1.2**k}" for k in range(40)))
    >>> finding = diagnose(path)[0]; finding.code, finding.severity
    ('TV202', 'error')
    """
    if isinstance(source, Record):
        return examine(_with_prior(source, prior))
    return list(examine_log(source, columns=columns, run=run, prior=prior).findings)


def examine_log(
    path: str | Path, *, columns: Mapping[str, str] | None = None, run: str | None = None, prior: float | None = None
) -> Diagnosis:
    """Return findings together with the log they come from and what it cannot tell; arguments as for `diagnose`."""
    log = read_log(path, columns=columns, run=run)
    record = _with_prior(log.record, prior)
    lacking = undecidable(record)
    names = {code: rule.name for code, rule in rules.catalogue().items()}
    return Diagnosis(
        log,
        tuple(examine(record)),
        {code: name for code, name in names.items() if code not in lacking},
        {code: _in_words(reason) for code, reason in lacking.items()},
    )


def _with_prior(record: Record, prior: float | None) -> Record:
    if prior is None:
        return record
    if not math.isfinite(prior):
        raise InputError(f"prior = {prior}; it has to be a number, such as 2.303 for ten balanced classes")
    setting = record.setting or Setting()
    return dataclasses.replace(record, setting=msgspec.structs.replace(setting, prior=prior))


def _in_words(reason: str) -> str:
    """Turn "needs probes, update" into what a person can do about it."""
    needs = reason.removeprefix("needs ").split(", ")
    said = [_NEEDS[need] for need in _NEEDS if need in needs]
    # Whatever is measured inside the model comes from watching it.
    return said[0] if said and len(said) == len(needs) else _NEEDS["setting"]
