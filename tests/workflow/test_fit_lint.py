"""`fit` tells once what lint has against a user's own recipe, and trains with it all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

import trivet
from trivet.record.journal import read_record

pytestmark = pytest.mark.app


@pytest.mark.parametrize(("decay", "accused"), [(0.01, True), (0.0, False)])
def test_a_recipe_of_ones_own_is_linted_into_record_and_report(tmp_path: Path, decay: float, accused: bool) -> None:
    recipe = trivet.Recipe(
        loss="cross_entropy",
        optimizer={"name": "Adam", "lr": 2e-3, "weight_decay": decay},
        schedule="cosine()",
        batch_size=16,
        epochs=3,
    )
    run = trivet.fit("sklearn:wine", recipe, out=tmp_path / "run", progress="off")
    said = [note.text for note in read_record(run.path / "record.jsonl").notes if note.text.startswith("lint:")]
    assert len(said) == accused
    assert ("TV120" in (run.path / "report.html").read_text()) == accused
    assert run.status == "done"
