"""The one engine that runs rules, and the rules that recommend."""

from __future__ import annotations

from trivet.advice.engine import run_rules
from trivet.advice.lint import lint
from trivet.advice.recommend import recommend

__all__ = ["lint", "recommend", "run_rules"]
