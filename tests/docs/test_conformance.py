"""The table of what losses keep: every loss is in it, nothing in it failed, and a failure would be seen."""

from __future__ import annotations

import re

import pytest

from docs import conformance
from trivet import losses


def _rows(text: str) -> dict[str, list[str]]:
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:3] == "| `"]
    return {cell[0].strip("`"): cell[1:] for cell in cells}


def test_the_committed_table_has_every_loss_and_no_failure() -> None:
    text = conformance.TABLE.read_text(encoding="utf-8")
    assert set(_rows(text)) == set(losses.catalogue())
    assert not re.search(r"\| NO\b", text)


def test_a_row_is_what_the_contract_suite_says_now(monkeypatch: pytest.MonkeyPatch) -> None:
    contract = conformance.suite()
    monkeypatch.setattr(contract, "test_compiles_without_a_graph_break", lambda name: pytest.skip("slow"))
    committed = _rows(conformance.TABLE.read_text(encoding="utf-8"))["triplet_loss"]
    assert conformance.row("triplet_loss", contract)[1:] == [*committed[:7], "no: slow", "gathers"]


def test_a_check_that_fails_or_breaks_is_a_no() -> None:
    def wrong() -> None:
        assert 1 + 1 == 3

    def broken() -> None:
        raise RuntimeError

    assert conformance.outcome([lambda: None, wrong]) == "NO"
    assert conformance.outcome([broken]) == "NO (RuntimeError)"
    assert conformance.outcome([lambda: None]) == "yes"
