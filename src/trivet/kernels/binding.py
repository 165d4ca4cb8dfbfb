"""From a rule to source that a compiler takes: the same mathematics, bound to one execution's `xp`.

A rule is a plain function of scalars. Its source is read, the functions and numbers of its own module that it uses
are brought along, and every number is given the compute type: to Numba `0.5 * e` would otherwise mean float64.
What a rule computes from its per-step numbers alone, such as `1 - beta2`, can be left to the host, in double precision.
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


@functools.cache
def parameters(rule: Rule) -> tuple[str, ...]:
    """Return the names of a rule's parameters, in order."""
    return tuple(inspect.signature(rule).parameters)


@functools.cache
def bound_source(rule: Rule, cast: str | None, numbers: tuple[str, ...] = ()) -> str:
    """Return the source of a rule and of what it calls, each as a plain function, callees first.

    `cast` names the type that literals become, such as `float32`; `None` leaves them as they are (Triton gives a
    number the type of what it meets). With `numbers`, the names of the rule's per-step numbers, its expressions of
    them alone become further parameters, in the order of `on_host`.
    """
    done: dict[Rule, str] = {}
    _collect(rule, cast, done, on_host(rule, numbers))
    return "\n\n".join(done.values())


@functools.cache
def on_host(rule: Rule, numbers: tuple[str, ...]) -> tuple[str, ...]:
    """Return a rule's expressions of these parameters alone, to be computed in double precision.

    In single precision `1 - 0.999` is wrong by 5e-5 of itself, and so would be Adam's second moment.
    """
    function = _parsed(rule)
    assigned = {
        node.id for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    known = frozenset(numbers) - assigned
    found: dict[str, None] = {}

    def search(node: ast.AST) -> None:
        if _of(known, node):
            found[ast.unparse(node)] = None
        else:
            for child in ast.iter_child_nodes(node):
                search(child)

    search(function)
    return tuple(found)


def _of(names: frozenset[str], node: ast.AST) -> bool:
    """Return whether an expression computes something from these names and literals, and from nothing else."""
    if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Add | ast.Sub | ast.Mult | ast.Div):
        return False
    sides = (node.left, node.right)
    return any(not isinstance(side, ast.Constant) for side in sides) and all(
        isinstance(side, ast.Constant) or (isinstance(side, ast.Name) and side.id in names) or _of(names, side)
        for side in sides
    )


def _parsed(rule: Rule) -> ast.FunctionDef:
    """Return the syntax tree of a rule, or raise `BackendError` for what cannot be one."""
    if not isinstance(rule, types.FunctionType) or rule.__closure__:
        raise BackendError(f"{rule!r} is no rule: a rule is a module-level function without a closure")
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(rule)))
    except OSError as error:
        raise BackendError(f"the source of rule {rule.__qualname__} cannot be read; define it in a file") from error
    function = tree.body[0]
    if not isinstance(function, ast.FunctionDef):
        raise BackendError(f"rule {rule.__qualname__} must be a plain `def`")
    return function


def _collect(rule: Rule, cast: str | None, done: dict[Rule, str], hosted: tuple[str, ...] = ()) -> None:
    function = _parsed(rule)
    function.decorator_list, function.returns = [], None
    for argument in function.args.args:
        argument.annotation = None
    if ast.get_docstring(function) is not None:
        del function.body[0]
    rewriter = _Rewriter(rule, cast, hosted)
    function = rewriter.visit(function)
    function.args.args += [ast.arg(name) for name in rewriter.hosted.values()]
    for callee in rewriter.calls:
        if callee not in done:
            if callee.__name__ in {other.__name__ for other in (rule, *done)}:
                raise BackendError(f"rule {rule.__qualname__} calls two functions named {callee.__name__}; rename one")
            _collect(callee, cast, done)
    done[rule] = ast.unparse(ast.fix_missing_locations(function))


class _Rewriter(ast.NodeTransformer):
    """Casts literals, replaces the module's own numbers by their values, and refuses what a rule must not use."""

    def __init__(self, rule: Rule, cast: str | None, hosted: tuple[str, ...]) -> None:
        self.rule = rule
        self.cast = cast
        self.hosted = {expression: f"hosted_{index}" for index, expression in enumerate(hosted)}
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
        if isinstance(value, types.FunctionType) and value.__name__ == node.id:
            self.calls.append(value)
            return node
        raise self._refuse(f"the name {node.id!r}")

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        if not isinstance(node.value, ast.Name) or node.value.id != "xp" or node.attr not in namespaces.NAMES:
            raise self._refuse(f"{ast.unparse(node)!r} (of xp there are: {', '.join(namespaces.NAMES)})")
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        name = self.hosted.get(ast.unparse(node)) if self.hosted else None
        if name is not None:
            return ast.Name(name, ast.Load())
        if isinstance(node.op, ast.Pow | ast.FloorDiv | ast.Mod):
            raise self._refuse(f"{ast.unparse(node)!r} (write xp.pow, or multiply)")
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST:
        raise self._refuse("`if` (write xp.where: both sides are computed)")

    visit_IfExp = visit_For = visit_While = visit_If  # type: ignore[assignment]
