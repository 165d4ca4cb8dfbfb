"""Write a page for every finding of the doctor from the rule's own words: `python -m docs.findings`."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

from trivet.doctor import rules

FOLDER = Path(__file__).parent / "parts" / "findings"
WORDS = {
    "loss": "the training loss",
    "lr": "the learning rate",
    "prior": "the loss of the best constant output",
    "eval_loss": "the validation loss",
    "metric": "the metric on validation data",
    "recalls": "the recall of each class",
    "setting": "a look at the model and its optimizer",
    "probes": "looks into the layers (`trivet.watch`, or any `trivet fit`)",
}


def page(code: str) -> str:
    """Return one finding's page as Markdown; raises `KeyError` for a code that no rule has."""
    known = rules.catalogue()
    one = known[code]
    story = inspect.cleandoc(one.check.__doc__ or "")
    needs = sorted({WORDS[name] for name in one.needs if name in WORDS})
    hidden = [f"{other} ({known[other].name})" for other in sorted(one.explains)]
    lines = [f"# {code}: {one.name}", "", "## What happens", "", story, "", "## What it is decided from", ""]
    lines += [f"- {need}" for need in needs]
    lines += [
        "",
        "It is a fact of the run, whatever the curve looks like."
        if one.certain
        else "It is a judgement: the finding says how sure it is, and what would show it to be wrong.",
    ]
    if hidden:
        lines += ["", "## What follows from it", "", "These are not reported beside it, since it explains them:", ""]
        lines += [f"- {other}" for other in hidden]
    lines += [
        "",
        "## What to do",
        "",
        "The finding carries the change, with numbers of your run: an edit of the recipe, or "
        "the line to write. `trivet doctor RUN` shows it again.",
    ]
    return "\n".join(lines) + "\n"


def write(folder: Path) -> list[Path]:
    """Write all pages and an index; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written, index = [], ["# What the doctor finds", ""]
    for code, one in rules.catalogue().items():
        path = folder / f"{code}.md"
        path.write_text(page(code), encoding="utf-8")
        written.append(path)
        index.append(f"- [{code}]({code}.md): {one.name}")
    (folder / "README.md").write_text("\n".join(index) + "\n", encoding="utf-8")
    return [*written, folder / "README.md"]


if __name__ == "__main__":
    print(f"{len(write(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER))} pages")
