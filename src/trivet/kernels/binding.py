"""From a rule to source that a compiler takes: the same mathematics, bound to one execution's `xp`.

A rule is a plain function of scalars. Its source is read, the functions and numbers of its own module that it uses
are brought along, and every number is given the compute type: to Numba `1 - beta1` would otherwise mean float64.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
import types
from collections.abc import Callable
from typing import Any

from trivet.errors import BackendError
from trivet.kernels import xp as namespaces

Rule = Callable[..., Any]


def parameters(rule: Rule) -> tuple[str, ...]:
    """Return the names of a rule's parameters, in order."""
    return tuple(inspect.signature(rule).parameters)


@functools.cache
def bound_source(rule: Rule, cast: str | None) -> str:
    """Return the source of a rule and of what it calls, each as a plain function, callees first.

    `cast` names the type that literals become, such as `float32`; `None` leaves them as they are (Triton gives a
    number the type of what it meets).
    """
    done: dict[str, str] = {}
    _collect(rule, cast, done)
    return "\n\n".join(done.values())


def _collect(rule: Rule, cast: str | None, done: dict[str, str]) -> None:
    if not isinstance(rule, types.FunctionType) or rule.__closure__:
        raise BackendError(f"{rule!r} is no rule: a rule is a module-level function without a closure")
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(rule)))
    except OSError as error:
        raise BackendError(f"the source of rule {rule.__qualname__} cannot be read; define it in a file") from error
    function = tree.body[0]
    if not isinstance(function, ast.FunctionDef):
        raise BackendError(f"rule {rule.__qualname__} must be a plain `def`")
    function.decorator_list, function.returns = [], None
    for argument in function.args.args:
        argument.annotation = None
    if ast.get_docstring(function) is not None:
        del function.body[0]
    rewriter = _Rewriter(rule, cast)
    function = rewriter.visit(function)
    for callee in rewriter.calls:
        if callee.__name__ not in done:
            _collect(callee, cast, done)
    done[rule.__name__] = ast.unparse(ast.fix_missing_locations(function))


class _Rewriter(ast.NodeTransformer):
    """Casts literals, replaces the module's own numbers by their values, and refuses what a rule must not use."""

    def __init__(self, rule: Rule, cast: str | None) -> None:
        self.rule = rule
        self.cast = cast
        self.calls: list[Rule] = []
        code = rule.__code__
        self.local = set(code.co_varnames)

    def _refuse(self, what: str) -> BackendError:
        return BackendError(f"rule {self.rule.__qualname__} uses {what}, which a rule must not")

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        if isinstance(node.value, bool) or not isinstance(node.value, int | float):
            raise self._refuse(f"the constant {node.value!r}")
        number = ast.Constant(float(node.value))
        if self.cast is None:
            return number
        return ast.Call(func=ast.Name(self.cast, ast.Load()), args=[number], keywords=[])

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in self.local or node.id == "xp":
            return node
        value = self.rule.__globals__.get(node.id)
        if isinstance(value, int | float):
            return self.visit_Constant(ast.Constant(value))
        if isinstance(value, types.FunctionType):
            self.calls.append(value)
            return node
        raise self._refuse(f"the name {node.id!r}")

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        if not isinstance(node.value, ast.Name) or node.value.id != "xp" or node.attr not in namespaces.NAMES:
            raise self._refuse(f"{ast.unparse(node)!r} (of xp there are: {', '.join(namespaces.NAMES)})")
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        if isinstance(node.op, ast.Pow | ast.FloorDiv | ast.Mod):
            raise self._refuse(f"{ast.unparse(node)!r} (write xp.pow, or multiply)")
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST:
        raise self._refuse("`if` (write xp.where: both sides are computed)")

    visit_IfExp = visit_For = visit_While = visit_If  # type: ignore[assignment]
