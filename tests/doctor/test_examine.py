"""The contract of examining a record: ranked, silent on healthy runs, never harmed by missing or broken numbers."""

from __future__ import annotations

import math
import random

import pytest

from trivet.doctor import examine, rules, undecidable
from trivet.doctor.evidence import as_evidence
from trivet.record import End, Eval, Probe, Record, Setting, Start, Step

NUMBERS = (
    *("descent", "turn", "stale", "shrunk", "training", "row_sum", "outlier_mass", "outlier_share", "is_mse"),
    *("bad_inputs", "seen.0", "hit.0", "seen.1", "hit.1", "label_entropy", "out_mean", "out_std"),
)
START = Start(200, 20, 32, 0, "cpu", "accuracy", True)


def curve(function, steps: int = 200, noise: float = 0.02, lr: float = 0.1, seed: int = 0) -> tuple[Step, ...]:
    draw = random.Random(seed)
    return tuple(
        Step(k, function(k) * (1 + noise * draw.gauss(0, 1)), lr, 0.01 * k, 1.0 + 0.1 * draw.random())
        for k in range(1, steps + 1)
    )


def codes(record: Record) -> list[str]:
    return [finding.code for finding in examine(record)]


def test_an_empty_record_has_no_findings_and_says_what_is_missing() -> None:
    assert examine(Record()) == []
    assert set(undecidable(Record())) == set(rules.catalogue())


def test_a_loss_that_falls_and_settles_is_healthy() -> None:
    steps = curve(lambda k: 2.3 * math.exp(-k / 40) + 0.1)
    assert all(f.severity == "note" for f in examine(Record(start=START, steps=steps)))


def test_a_loss_that_grows_is_a_rate_too_high_and_the_fix_is_lower() -> None:
    first = examine(Record(start=START, steps=curve(lambda k: 2.3 * 1.05**k)))[0]
    assert first.code == "TV202"
    assert first.fix.path == "optimizer.lr"
    assert 0 < first.fix.value < 0.1


def test_a_straight_crawl_is_a_rate_too_low_and_the_fix_is_higher() -> None:
    first = examine(Record(start=START, steps=curve(lambda k: 2.3 - 0.001 * k, noise=0.001, lr=1e-6)))[0]
    assert first.code == "TV203"
    assert first.fix.value > 1e-6


def test_one_huge_loss_is_a_spike_at_its_step() -> None:
    steps = list(curve(lambda k: 2.3 * math.exp(-k / 40) + 0.1))
    steps[119] = Step(120, 30.0, 0.1, 1.2, 90.0)
    first = examine(Record(start=START, steps=tuple(steps)))[0]
    assert (first.code, first.step) == ("TV213", 120)


def test_validation_loss_that_turns_is_overfitting_unless_the_metric_holds() -> None:
    steps = curve(lambda k: 2.3 * math.exp(-k / 30) + 0.01)
    at = range(10, 201, 10)
    losses = [1.0 - 0.01 * k if k < 60 else 0.4 + 0.01 * (k - 60) for k in at]
    worse = [0.5 + 0.005 * k if k < 60 else 0.8 - 0.002 * (k - 60) for k in at]
    better = [0.5 + 0.002 * k for k in at]
    for metrics, expected in ((worse, "TV214"), (better, "TV215")):
        evals = tuple(Eval(k, "val", m, v, 0.0) for k, m, v in zip(at, metrics, losses, strict=True))
        assert codes(Record(start=START, steps=steps, evals=evals))[0] == expected


def test_facts_come_before_statistics_and_hide_their_consequences() -> None:
    setting = Setting(layers=("0",), kinds=("Linear",), loss="CrossEntropyLoss", prior=2.3, classes=10)
    probes = tuple(
        Probe(step=k, loss=2.2, grad=(0.1,), weight=(1.0,), update=(1e-6,), numbers={"row_sum": 1.0, "is_ce": 1.0})
        for k in range(1, 9)
    )
    record = Record(start=START, steps=curve(lambda k: 2.25 - 1e-4 * k, noise=1e-4), setting=setting, probes=probes)
    assert codes(record) == ["TV216"]


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["all", "one", "probes"])
def test_no_rule_is_harmed_by_numbers_that_are_not_finite(broken: float, where: str) -> None:
    steps = [
        Step(k, broken if where == "all" or (where == "one" and k == 50) else 1.0, 0.1, 0.0, broken)
        for k in range(1, 101)
    ]
    evals = tuple(Eval(k, "val", broken, broken, 0.0) for k in range(10, 101, 10))
    setting = Setting(
        layers=("a", "b"),
        kinds=("Linear", "Tanh"),
        prior=broken,
        input_rms=broken,
        weight_decay=0.1,
        target_mean=broken,
        target_std=broken,
        optimizer="Adagrad",
    )
    row = (broken, broken)
    probes = tuple(
        Probe(
            step=k,
            loss=broken,
            grad=row,
            weight=row,
            update=row,
            rms=row,
            std=row,
            dead=row,
            saturated=row,
            numbers=dict.fromkeys(NUMBERS, broken),
        )
        for k in range(1, 12)
    )
    record = Record(
        start=START, steps=tuple(steps), evals=evals, setting=setting, probes=probes, end=End(100, "finished", 1.0)
    )
    for finding in examine(record):
        assert 0 <= finding.confidence <= 1
        assert math.isfinite(finding.confidence)


def test_one_nan_among_healthy_losses_is_seen() -> None:
    steps = list(curve(lambda k: 2.3 * math.exp(-k / 40) + 0.1))
    steps[150] = Step(151, math.nan, 0.1, 1.5, math.nan)
    assert "TV202" in codes(Record(start=START, steps=tuple(steps)))


def test_every_rule_has_a_story_a_name_and_known_consequences() -> None:
    known = rules.catalogue()
    assert len(known) >= 25
    for code, one in known.items():
        assert one.check.__doc__, code
        assert one.name, code
        assert code not in one.explains, code
        assert one.explains <= set(known), (code, one.explains - set(known))


def test_no_two_rules_explain_each_other_away() -> None:
    known = rules.catalogue()
    for code, one in known.items():
        for other in one.explains:
            assert code not in known[other].explains, (code, other)


def test_columns_have_the_shape_of_their_clock() -> None:
    setting = Setting(layers=("a", "b"), kinds=("Linear", "Linear"))
    probes = (Probe(step=1, loss=1.0, grad=(1.0, 2.0)), Probe(step=2, loss=1.0))
    evidence = as_evidence(Record(setting=setting, probes=probes))
    assert evidence.layer("grad").shape == (2, 2)
    assert math.isnan(evidence.layer("grad")[1, 0])
