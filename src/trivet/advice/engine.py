"""The one engine: small pure rules from facts to something with a reason.

Recommender, lint and doctor hand it different rules and facts; all that the engine knows is that a rule is a
function that answers with a result or with `None` ("nothing to say"), that rules run in the order they are listed,
and that later rules see what earlier ones answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

Facts = TypeVar("Facts")
State = TypeVar("State")
Answer = TypeVar("Answer")


def run_rules(
    rules: Iterable[Callable[[Facts, State], Answer | None]],
    facts: Facts,
    state: State,
    *,
    fold: Callable[[State, Answer], State],
) -> State:
    """Run rules over facts; `fold` takes each answer into the state that the next rule sees.

    >>> def double(facts, total): return 2 * facts
    >>> def silent(facts, total): return None
    >>> run_rules([double, silent, double], 5, 0, fold=lambda total, answer: total + answer)
    20
    """
    for rule in rules:
        answer = rule(facts, state)
        if answer is not None:
            state = fold(state, answer)
    return state
