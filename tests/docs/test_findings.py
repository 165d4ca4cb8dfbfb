"""Every finding of the doctor has a page in plain words."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.findings import WORDS, page, write
from trivet.doctor import rules


@pytest.mark.parametrize("code", list(rules.catalogue()))
def test_every_finding_has_a_page_with_a_story_and_what_it_needs(code: str) -> None:
    text = page(code)
    story = text.split("## What happens")[1].split("##")[0].strip()
    assert len(story) > 60
    assert any(f"- {said}" in text for said in WORDS.values())


def test_the_index_has_every_finding(tmp_path: Path) -> None:
    written = write(tmp_path)
    assert {path.stem for path in written} == {*rules.catalogue(), "README"}
    assert all(f"]({code}.md)" in (tmp_path / "README.md").read_text() for code in rules.catalogue())
