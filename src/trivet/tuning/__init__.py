"""Tuning: find the rate, and (later) search and compare recipes."""

from __future__ import annotations

from trivet.tuning.hessian import Curvature, curvature
from trivet.tuning.lr_finder import find_lr
from trivet.tuning.lr_range import LRRange

__all__ = ["Curvature", "LRRange", "curvature", "find_lr"]
