"""Optimizers: each family in one file, with the mathematics at its top."""

from __future__ import annotations

import torch

from trivet.optim.accumulation import Accumulation, full_batch
from trivet.optim.adadelta import Adadelta
from trivet.optim.adafactor import Adafactor
from trivet.optim.adagrad import Adagrad
from trivet.optim.adam import Adam, AdamW
from trivet.optim.adamax import Adamax
from trivet.optim.averaging import EMA, SWA
from trivet.optim.base import ElementwiseOptimizer
from trivet.optim.clip import clip_adaptive_, clip_norm_, clip_value_, total_norm
from trivet.optim.groups import Groups, check_groups, param_groups
from trivet.optim.layerwise import LAMB, LARS
from trivet.optim.lion import Lion
from trivet.optim.lookahead import Lookahead
from trivet.optim.memory import MemoryPlan, memory_plan
from trivet.optim.muon import Muon
from trivet.optim.nadam import NAdam
from trivet.optim.prodigy import Prodigy
from trivet.optim.radam import RAdam
from trivet.optim.rmsprop import RMSprop
from trivet.optim.rprop import Rprop
from trivet.optim.sam import SAM
from trivet.optim.schedule_free import AdamWScheduleFree, SGDScheduleFree
from trivet.optim.sgd import SGD
from trivet.optim.sophia import Sophia
from trivet.optim.storage import decoded

__all__ = [
    "EMA",
    "LAMB",
    "LARS",
    "SAM",
    "SGD",
    "SWA",
    "Accumulation",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "AdamWScheduleFree",
    "Adamax",
    "ElementwiseOptimizer",
    "Groups",
    "Lion",
    "Lookahead",
    "MemoryPlan",
    "Muon",
    "NAdam",
    "Prodigy",
    "RAdam",
    "RMSprop",
    "Rprop",
    "SGDScheduleFree",
    "Sophia",
    "catalogue",
    "check_groups",
    "clip_adaptive_",
    "clip_norm_",
    "clip_value_",
    "decoded",
    "full_batch",
    "memory_plan",
    "param_groups",
    "total_norm",
]

# What a plain loop of forward, backward and step trains with.
PLAIN = (
    Adadelta,
    Adafactor,
    Adagrad,
    Adam,
    AdamW,
    Adamax,
    LAMB,
    LARS,
    Lion,
    Muon,
    NAdam,
    Prodigy,
    RAdam,
    RMSprop,
    Rprop,
    SGD,
)
# What asks more of the loop: modes for training and evaluation, curvature estimates, a closure, another optimizer.
SPECIAL = (AdamWScheduleFree, SGDScheduleFree, Sophia)


def catalogue() -> dict[str, type[torch.optim.Optimizer]]:
    """Return the class behind each name that a recipe may give: all that a plain training loop can drive."""
    return {cls.__name__: cls for cls in PLAIN}
