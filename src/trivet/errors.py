"""The errors that trivet raises on purpose.

    TrivetError                 anything that trivet says on purpose
    |-- InputError              what was given cannot be used (exit code 2); also a ValueError
    |   |-- DataError           a data file, table, array or target
    |   |-- RecipeError         a recipe, one of its parts, or a recipe file
    |   `-- RunError            a run directory or one of its files
    |-- BackendError            a named backend cannot do this here; also a RuntimeError
    |-- MissingExtraError       an optional dependency is not installed; also an ImportError
    `-- DivergedError           training produced a non-finite loss (exit code 3); also an ArithmeticError

Every message says what was given, what is allowed, and what to try, in that order.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType

__all__ = [
    "BackendError",
    "DataError",
    "DivergedError",
    "InputError",
    "MissingExtraError",
    "RecipeError",
    "RunError",
    "TrivetError",
    "first_line",
    "nearest",
    "require",
    "unknown_name",
]


class TrivetError(Exception):
    """Base of every error that trivet raises on purpose."""

    exit_code = 2


class InputError(TrivetError, ValueError):
    """What was given cannot be used."""


class DataError(InputError):
    """A data file, table, array or target cannot be used."""


class RecipeError(InputError):
    """A recipe, one of its parts, or a recipe file cannot be used."""


class RunError(InputError):
    """A run directory or one of its files cannot be used."""


class BackendError(TrivetError, RuntimeError):
    """The named backend cannot execute this here."""


class MissingExtraError(TrivetError, ImportError):
    """An optional dependency is not installed."""


class DivergedError(TrivetError, ArithmeticError):
    """Training produced a loss that is not finite."""

    exit_code = 3


def first_line(error: BaseException) -> str:
    """Return the first line of an error; somebody else's, which may be a bare word, stands behind its kind.

    >>> first_line(KeyError("x")), first_line(ValueError("one\\ntwo"))
    ("KeyError: 'x'", 'ValueError: one')
    """
    lines = str(error).strip().splitlines()
    kind = type(error).__name__
    if not lines:
        return kind
    return lines[0] if isinstance(error, TrivetError) else f"{kind}: {lines[0]}"


def nearest(given: str, allowed: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest allowed name, or an empty string.

    >>> nearest("AdmaW", ["AdamW", "SGD"])
    "; did you mean 'AdamW'?"
    """
    by_lower = {name.lower(): name for name in allowed}
    close = difflib.get_close_matches(given.lower(), by_lower, n=1, cutoff=0.5)
    return f"; did you mean {by_lower[close[0]]!r}?" if close else ""


def unknown_name(what: str, given: str, allowed: Iterable[str], *, error: type[InputError] = InputError) -> InputError:
    """Build the error for a name that is not among the allowed ones: given, nearest, all allowed.

    >>> str(unknown_name("loss", "mse", ["mse_loss", "l1_loss"]))
    "unknown loss 'mse'; did you mean 'mse_loss'? Allowed: l1_loss, mse_loss"
    """
    names = sorted(allowed)
    hint = nearest(given, names) or "."
    return error(f"unknown {what} {given!r}{hint} Allowed: {', '.join(names)}")


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency, or say in one line what to install.

    >>> require("math", "app").__name__
    'math'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingExtraError(
            f"this needs {package}, which is not installed; try: pip install 'trivet[{extra}]'"
        ) from error
