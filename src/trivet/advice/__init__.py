"""The one engine that runs rules, and the rules that recommend."""

from __future__ import annotations

from trivet.advice.engine import run_rules
from trivet.advice.recommend import recommend

__all__ = ["recommend", "run_rules"]
