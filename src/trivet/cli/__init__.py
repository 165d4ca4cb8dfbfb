"""The command line: parses, calls the library, prints. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code: 0 ok, 2 bad input, 3 diverged, 130 interrupted."""
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """Run the command line on arguments and return the exit code."""
    from trivet.errors import MissingExtraError, TrivetError, require

    try:
        require("cyclopts", "app")
    except MissingExtraError as error:
        return _fail(str(error), 2)
    from cyclopts import CycloptsError

    from trivet.cli.app import app

    try:
        # Errors are printed here, as one line, like every other error.
        result = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        return result if isinstance(result, int) else 0
    except CycloptsError as error:
        return _fail(" ".join(str(error).split()), 2, hint="see: trivet --help")
    except TrivetError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        # The reader of our output (head, less) has gone; there is nobody left to tell.
        sys.stderr.close()
        return 0


def _fail(message: str, code: int, *, hint: str = "") -> int:
    print(f"trivet: {message}" + (f" ({hint})" if hint else ""), file=sys.stderr)
    return code
