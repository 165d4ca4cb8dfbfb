"""The report of a run: one HTML file, offline, light and dark."""

from __future__ import annotations

from trivet.report.page import write_report

__all__ = ["write_report"]
