"""From a rule to source: what is cast, what is brought along, what is left to the host, what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest

from trivet.errors import BackendError
from trivet.kernels.binding import bound_source, on_host, parameters
from trivet.kernels.xp import reference as xp
from trivet.optim import adam, lion, sgd

SLOPE = 3


def _helper(x: Any) -> Any:
    return SLOPE * x


def calls(x: Any, t: Any) -> Any:
    """A docstring is left out."""
    return _helper(x) + xp.abs(t) * 2


def test_literals_and_the_modules_numbers_are_cast_and_callees_come_first() -> None:
    assert bound_source(calls, "float32") == (
        "def _helper(x):\n    return float32(3.0) * x\n\n"
        "def calls(x, t):\n    return _helper(x) + xp.abs(t) * float32(2.0)"
    )
    assert "2.0" in bound_source(calls, None)
    assert "float32" not in bound_source(calls, None)


def test_parameters_are_in_the_rules_order() -> None:
    assert parameters(lion.lion) == ("p", "g", "exp_avg", "lr", "beta1", "beta2", "weight_decay")


def test_what_depends_on_numbers_alone_is_left_to_the_host() -> None:
    # One number of several operations is left whole: 1 - lr * weight_decay, not lr * weight_decay.
    assert on_host(lion.lion, parameters(lion.lion)[3:]) == ("1 - beta1", "1 - lr * weight_decay", "1 - beta2")
    assert on_host(adam.adam, parameters(adam.adam)[4:]) == ("1 - beta1", "1 - beta2")
    assert on_host(sgd.momentum, parameters(sgd.momentum)[3:]) == ()
    assert bound_source(lion.lion, "float32", parameters(lion.lion)[3:]) == (
        "def lion(p, g, exp_avg, lr, beta1, beta2, weight_decay, hosted_0, hosted_1, hosted_2):\n"
        "    u = xp.sign(beta1 * exp_avg + hosted_0 * g)\n"
        "    return (p * hosted_1 - lr * u, beta2 * exp_avg + hosted_2 * g)"
    )


def reassigns(p: Any, g: Any, lr: Any) -> Any:
    lr = lr * p
    return p - (1 - lr) * g


def test_a_number_that_the_rule_changes_stays_in_the_rule() -> None:
    assert on_host(reassigns, ("lr",)) == ()


def branches(x: Any) -> Any:
    if x > 0:
        return x
    return -x


def chooses(x: Any) -> Any:
    return x if x > 0 else -x


def loops(x: Any) -> Any:
    for _ in (1, 2):
        x = x + x
    return x


def spins(x: Any) -> Any:
    while x < 1:
        x = x + x
    return x


def powers(x: Any) -> Any:
    return x**2


def divides(x: Any) -> Any:
    return x // 2


def takes_from_math(x: Any) -> Any:
    return math.sqrt(x)


def takes_what_xp_lacks(x: Any) -> Any:
    return xp.erf(x)  # type: ignore[attr-defined]


def calls_a_method(x: Any) -> Any:
    return x.abs()


def uses_a_builtin(x: Any) -> Any:
    return abs(x)


def holds_text(x: Any) -> Any:
    return x * len("text")


def holds_none(x: Any) -> Any:
    return xp.where(x == None, x, x)  # noqa: E711


renamed = _helper


def calls_by_another_name(x: Any) -> Any:
    return renamed(x)


def _closure() -> Any:
    scale = 2.0

    def inner(x: Any) -> Any:
        return x * scale

    return inner


@pytest.mark.parametrize(
    ("rule", "named"),
    [
        (branches, "where"),
        (chooses, "where"),
        (loops, "where"),
        (spins, "where"),
        (powers, "xp.pow"),
        (divides, "x // 2"),
        (takes_from_math, "math"),
        (takes_what_xp_lacks, "of xp there are: abs"),
        (calls_a_method, "x.abs"),
        (uses_a_builtin, "abs"),
        (holds_text, "text"),
        (holds_none, "None"),
        (calls_by_another_name, "renamed"),
        (_closure(), "closure"),
        (math.sqrt, "module-level function"),
        (eval("lambda x: x"), "lambda"),
    ],
)
def test_what_a_rule_must_not_hold_is_refused_by_name(rule: Any, named: str) -> None:
    with pytest.raises(BackendError, match=named.replace(".", r"\.")):
        bound_source(rule, "float32")


def test_two_functions_of_one_name_do_not_take_each_others_place() -> None:
    other = type(_helper)(_helper.__code__, {"SLOPE": 5}, "_helper")
    rule = type(calls)(calls.__code__, {"_helper": other, "xp": xp}, "_helper")
    with pytest.raises(BackendError, match="two functions named _helper"):
        bound_source(rule, "float32")
