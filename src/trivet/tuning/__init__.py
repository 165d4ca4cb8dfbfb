"""Tuning: find the rate, compare recipes, search for one."""

from __future__ import annotations

from trivet.tuning.comparison import compare
from trivet.tuning.hessian import Curvature, curvature
from trivet.tuning.lr_finder import find_lr
from trivet.tuning.lr_range import LRRange
from trivet.tuning.race import Plan, Race, plan_race, race
from trivet.tuning.recipe_search import search
from trivet.tuning.space import OptimizerSpace, Range, Space
from trivet.tuning.study import Study

__all__ = [
    "Curvature",
    "LRRange",
    "OptimizerSpace",
    "Plan",
    "Race",
    "Range",
    "Space",
    "Study",
    "compare",
    "curvature",
    "find_lr",
    "plan_race",
    "race",
    "search",
]
