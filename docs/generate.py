"""Write a page for every loss, optimizer and schedule from its own documentation: `make docs`.

The pages go to `docs/parts/`, which git ignores: they are the docstrings, and a second copy under version control
would only lag behind. A part that a recipe can name has a page by being named; one without documentation fails. The
picture of a loss is drawn from the loss itself: value and gradient along the number that it cares about.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

from trivet import schedules
from trivet.figures.style import write_svg
from trivet.recipes.catalogue import documentation, loss_class, optimizer_class, parameters_of, parts, portrait_of

FOLDER = Path(__file__).parent / "parts"
FAMILIES = {
    "losses": "What error matters?",
    "optimizers": "How to move?",
    "schedules": "How far, and when?",
}


def page(family: str, name: str) -> str:
    """Return one part's page as Markdown; raises `SystemExit` naming a part that has no documentation."""
    text = documentation(name)
    if not text:
        raise SystemExit(f"docs: {name} ({family}) has no docstring, so it has no page; write one")
    head = f"# {name}\n\n{_in_a_recipe(family, name)}\n\n{_parameters(family, name)}"
    summary, _, rest = text.partition("\n\n")
    if picture := portrait_of(name):
        curves = "; ".join(curve.label for curve in picture.curves)
        summary += f"\n\n![Value and gradient along: {picture.along} ({curves})]({name}.svg)"
    return f"{head}{_markdown(summary)}\n\n{_markdown(rest)}\n"


def _in_a_recipe(family: str, name: str) -> str:
    line = {
        "losses": f'loss = {{name = "{name}"}}',
        "optimizers": f'optimizer = {{name = "{name}", lr = 1e-3}}',
        "schedules": f'schedule = "warmup(0.05) >> {name}(...)"',
    }[family]
    return f"```toml\n{line}\n```"


def _parameters(family: str, name: str) -> str:
    if family == "schedules":
        signature = inspect.signature(schedules.catalogue()[name])
        found = list(signature.parameters.values())
    else:
        found = list(parameters_of(loss_class(name) if family == "losses" else optimizer_class(name)).values())
    if not found:
        return ""
    rows = [f"| `{p.name}` | {'required' if p.default is p.empty else f'`{p.default!r}`'} |" for p in found]
    return "| parameter | default |\n|---|---|\n" + "\n".join(rows) + "\n\n"


def _markdown(text: str) -> str:
    """Docstrings are Markdown but for examples and formulas, which become blocks, and lists of arguments."""
    return "\n\n".join(_block(block) for block in re.split(r"\n\s*\n", text))


def _block(block: str) -> str:
    if block.lstrip().startswith(">>>"):
        return f"```pycon\n{inspect.cleandoc(block)}\n```"
    said, example = block.partition("\n>>>")[::2]
    if example:
        return f"{_block(said)}\n\n```pycon\n>>>{example}\n```"
    before, formula = block.partition(".. math::")[::2]
    if formula:
        return f"{before}```math\n{inspect.cleandoc(formula)}\n```"
    if block.startswith("When: "):
        flowing = re.sub(r"\n +", " ", block)
        block = re.sub(r"^(When|When not|Cost): ", r"- **\1.** ", flowing, flags=re.MULTILINE)
    if re.match(r"(Args|Arguments|Raises|Returns):", block):
        block = re.sub(r"^    (\w+): ", r"- `\1`: ", block, flags=re.MULTILINE).replace(":\n-", ":\n\n-", 1)
    return block.replace("``", "`")


def write(folder: Path) -> list[Path]:
    """Write the pages and an index; return their paths."""
    index, written = ["# Parts of a recipe", ""], []
    for family, names in parts().items():
        (folder / family).mkdir(parents=True, exist_ok=True)
        index += [f"## {family.capitalize()}: {FAMILIES[family][0].lower()}{FAMILIES[family][1:]}", ""]
        for name in names:
            path = folder / family / f"{name}.md"
            path.write_text(page(family, name), encoding="utf-8")
            if picture := portrait_of(name):
                write_svg(picture.plot(), str(path.with_suffix(".svg")))
            written.append(path)
            index.append(f"- [{name}]({family}/{name}.md): {_summary(name)}")
        index.append("")
    (folder / "README.md").write_text("\n".join(index), encoding="utf-8")
    return [*written, folder / "README.md"]


def _summary(name: str) -> str:
    return documentation(name).split("\n\n")[0].replace("\n", " ").replace("``", "`")


def main() -> None:
    written = write(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
    print(f"{len(written)} pages, with pictures of the losses, in {written[-1].parent}")


if __name__ == "__main__":
    main()
