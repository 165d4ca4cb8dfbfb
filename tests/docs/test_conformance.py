"""The tables of what losses and optimizers keep: each is in it, nothing in it failed, and a failure would be seen."""

from __future__ import annotations

import re

import pytest
import torch

from docs import conformance, optimizer_conformance
from trivet import losses, optim


def _rows(text: str) -> dict[str, list[str]]:
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:3] == "| `"]
    return {cell[0].strip("`"): cell[1:] for cell in cells}


def test_the_committed_table_has_every_loss_and_no_failure() -> None:
    text = conformance.TABLE.read_text(encoding="utf-8")
    of_losses, of_optimizers = text.split("## Optimizers")
    assert set(_rows(of_losses)) == set(losses.catalogue())
    assert set(_rows(of_optimizers)) == set(optim.catalogue()) | {cls.__name__ for cls in optim.SPECIAL}
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


@pytest.mark.filterwarnings("ignore:Sophia has made 20 steps")
def test_the_committed_table_of_optimizers_is_what_they_do_now() -> None:
    committed = conformance.TABLE.read_text(encoding="utf-8")
    assert committed.endswith(optimizer_conformance.table())


def test_an_optimizer_that_breaks_a_promise_gets_a_no(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that forgets its states when it is loaded, takes half the rate if that is a tensor, and rounds too early."""

    class Forgetful(torch.optim.AdamW):
        def load_state_dict(self, state_dict: object) -> None:
            pass

        def step(self, closure: object = None) -> None:  # type: ignore[override]
            group = self.param_groups[0]
            if isinstance(group["lr"], torch.Tensor):
                group["lr"] = float(group["lr"]) / 2
            super().step()
            for p in group["params"]:
                if p.grad is not None and not p.is_complex():
                    p.data = p.data.bfloat16().to(p.dtype)

    contract = optimizer_conformance.suite()
    monkeypatch.setattr(contract, "everything", lambda: {"AdamW": Forgetful})
    cells = dict(zip(optimizer_conformance.COLUMNS, optimizer_conformance.row("AdamW", contract)[1:], strict=False))
    wrong = {"float64", "tensor lr", "closure", "resume", "torch's checkpoint"}
    assert {column for column, cell in cells.items() if cell.startswith("NO")} >= wrong
    assert cells["no gradient"] == "yes"
    assert cells["narrow states"] == "no: no such option"
