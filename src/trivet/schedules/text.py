"""From the text form back to the schedule: calls of known names joined by `>>`, and nothing else."""

from __future__ import annotations

import ast
import inspect

from trivet.errors import RecipeError, nearest, unknown_name
from trivet.schedules.phases import catalogue
from trivet.schedules.schedule import Schedule

# A bound for what the page and the command line accept; real schedules have below a hundred.
LONGEST = 20_000


def parse(text: str) -> Schedule:
    """Read a schedule's text form, such as `"warmup(0.05) >> cosine(floor=0.01)"`.

    Only calls of catalogue names with literal numbers are understood; nothing is evaluated. Raises `RecipeError`.

    >>> str(parse("cosine"))
    'cosine()'
    """
    if not isinstance(text, str) or len(text) > LONGEST:
        raise RecipeError(f"a schedule's text form is a string of at most {LONGEST} characters")
    try:
        return _read(ast.parse(text.strip(), mode="eval").body, text)
    except RecipeError:
        raise
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise RecipeError(f'schedule {text!r} cannot be read; write for instance "warmup(0.05) >> cosine()"') from error


def _read(node: ast.expr, text: str) -> Schedule:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.RShift):
        return _read(node.left, text) >> _read(node.right, text)
    if isinstance(node, ast.Name):
        return _call(node.id, [], {})
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        try:
            arguments = [ast.literal_eval(argument) for argument in node.args]
            options = {word.arg or "**": ast.literal_eval(word.value) for word in node.keywords}
        except ValueError:
            raise RecipeError(f"schedule {text!r}: arguments must be plain numbers") from None
        return _call(node.func.id, arguments, options)
    raise RecipeError(f"schedule {text!r} may hold only names, calls and >>; see: trivet show")


def _call(name: str, arguments: list[object], options: dict[str, object]) -> Schedule:
    members = catalogue()
    if name not in members:
        raise unknown_name("schedule", name, members, error=RecipeError)
    allowed = inspect.signature(members[name]).parameters
    for key in options:
        if key not in allowed:
            hint = nearest(key, allowed) or "."
            raise RecipeError(f"schedule {name!r} has no parameter {key!r}{hint} Allowed: {', '.join(allowed)}")
    for key, value in (*zip(allowed, arguments, strict=False), *options.items()):
        if allowed[key].annotation in ("float", "int") and type(value) not in (float, int):
            raise RecipeError(f"schedule {name!r}: {key} = {value!r} must be a number")
    try:
        return members[name](*arguments, **options)
    except TypeError as error:
        raise RecipeError(f"schedule {name}: {error}") from error
