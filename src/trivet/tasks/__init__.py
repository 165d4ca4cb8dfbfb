"""What is to be learned: tasks, readers, splits, preprocessing, small reference models, metrics."""

from trivet.tasks.baselines import Baseline
from trivet.tasks.decision import Decision, fit_decision
from trivet.tasks.kinds import KINDS, Answers, Context, Kind, Known
from trivet.tasks.metrics import METRICS, Metric, bootstrap_difference, metric_for
from trivet.tasks.models import ResidualCNN, TabularMLP
from trivet.tasks.prediction import Predictions, Predictor
from trivet.tasks.preprocessing import Preprocessing
from trivet.tasks.readers import SKLEARN_SETS, read_task
from trivet.tasks.splits import Split
from trivet.tasks.task import Task

__all__ = [
    "KINDS",
    "METRICS",
    "SKLEARN_SETS",
    "Answers",
    "Baseline",
    "Context",
    "Decision",
    "Kind",
    "Known",
    "Metric",
    "Predictions",
    "Predictor",
    "Preprocessing",
    "ResidualCNN",
    "Split",
    "TabularMLP",
    "Task",
    "bootstrap_difference",
    "fit_decision",
    "metric_for",
    "read_task",
]
