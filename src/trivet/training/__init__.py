"""The training loop: it knows tasks, recipes, records and callbacks, and nothing above them."""

from __future__ import annotations

from trivet.training.callbacks import Callback, Observer, Recorder
from trivet.training.initialization import best_constant, initialize
from trivet.training.loop import Outcome, align, call, evaluate, predict_outputs, train
from trivet.training.pace import Pace
from trivet.training.progress import make_progress
from trivet.training.random_state import RandomState
from trivet.training.rehearsal import rehearse

__all__ = [
    "Callback",
    "Observer",
    "Outcome",
    "Pace",
    "RandomState",
    "Recorder",
    "align",
    "best_constant",
    "call",
    "evaluate",
    "initialize",
    "make_progress",
    "predict_outputs",
    "rehearse",
    "train",
]
