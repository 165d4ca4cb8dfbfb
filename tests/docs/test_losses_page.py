"""The page about losses: its examples run, and it finds a place for every loss."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

from trivet import losses

PAGE = Path(__file__).parents[2] / "docs" / "losses.md"


def test_every_example_on_the_page_gives_what_it_shows() -> None:
    failed, tried = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8")
    assert tried >= 15
    assert failed == 0


def test_the_table_of_errors_names_every_loss_once() -> None:
    table = PAGE.read_text(encoding="utf-8").partition("## The contract")[0]
    named = re.findall(r"`(\w+)`", table.partition("| the error")[2])
    assert sorted(named) == sorted(losses.catalogue())
