"""Every part that a recipe can name has a page that says what it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.generate import page, write
from trivet.recipes.catalogue import parts

pytestmark = pytest.mark.app  # pictures are drawn by matplotlib

PARTS = [(family, name) for family, names in parts().items() for name in names]


@pytest.mark.parametrize(("family", "name"), PARTS, ids=[name for _, name in PARTS])
def test_every_part_has_a_page_that_explains_it(family: str, name: str) -> None:
    text = page(family, name)
    assert text.startswith(f"# {name}\n")
    body = text.split("```", 2)[2]
    assert len(body) > 120, f"the page of {name} says next to nothing: {body!r}"
    assert text.count("```") % 2 == 0
    assert not re.search(r":(func|math|class):|\.\. math::", text), f"the page of {name} shows markup"


def test_the_index_links_every_page_and_no_other(tmp_path: Path) -> None:
    written = write(tmp_path)
    links = re.findall(r"\]\(([^)]+)\)", (tmp_path / "README.md").read_text())
    assert {tmp_path / link for link in links} == set(written[:-1])
    assert len(links) == len(PARTS)
    pictures = {path.stem for path in (tmp_path / "losses").glob("*.svg")}
    assert pictures == {name for family, name in PARTS if family == "losses"}
    for name in pictures:
        text = (tmp_path / "losses" / f"{name}.md").read_text()
        assert f"]({name}.svg)" in text
        assert all(f"- **{said}.** " in text for said in ("When", "When not", "Cost"))


def test_a_part_without_documentation_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import docs.generate

    monkeypatch.setattr(docs.generate, "documentation", lambda name: "")
    with pytest.raises(SystemExit, match=r"dice_loss \(losses\) has no docstring"):
        page("losses", "dice_loss")
