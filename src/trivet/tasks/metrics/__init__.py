"""The task's own metrics, a file per family; a new family is one file here and one line below."""

from trivet.tasks.metrics import classification, counts, language, multilabel, overlap, regression, retrieval
from trivet.tasks.metrics.base import (
    METRICS,
    Metric,
    bootstrap_difference,
    bootstrap_interval,
    metric_for,
    register,
)

__all__ = [
    "METRICS",
    "Metric",
    "bootstrap_difference",
    "bootstrap_interval",
    "classification",
    "counts",
    "language",
    "metric_for",
    "multilabel",
    "overlap",
    "register",
    "regression",
    "retrieval",
]
