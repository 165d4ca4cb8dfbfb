"""Plots of anything: arrays in, figure out. Matplotlib is imported when a figure is drawn, not before."""

from __future__ import annotations

from trivet.figures.descents import descent

__all__ = ["descent"]
