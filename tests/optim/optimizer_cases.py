"""What the contract suite knows about each optimizer: options that reach every branch, a rate that works."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from trivet import optim

STEPS = 30


@dataclass(frozen=True)
class Case:
    """`options` are tried one by one; `lr` trains on small problems; `complex`: complex parameters are taken."""

    options: tuple[dict[str, Any], ...] = ({},)
    lr: float = 0.05
    complex: bool = True
    network_lr: float | None = None  # where the network's curvature is so unlike the quadratic's that one rate fits not
    steps: int = 300
    training: dict[str, Any] = field(default_factory=dict)


CASES = {
    "SGD": Case(
        (
            {},
            {"momentum": 0.9, "weight_decay": 0.1},
            {"momentum": 0.9, "dampening": 0.5},
            {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
            {"maximize": True},
        ),
        lr=0.02,
        training={"momentum": 0.9},
    ),
    "Adam": Case(({}, {"weight_decay": 0.1}, {"amsgrad": True}, {"maximize": True, "betas": (0.5, 0.9)})),
    "AdamW": Case(({}, {"weight_decay": 0.5, "lr": 0.1}, {"amsgrad": True}, {"maximize": True})),
    "Adagrad": Case(
        (
            {},
            {"lr_decay": 0.1, "weight_decay": 0.1},
            {"initial_accumulator_value": 0.3},
            {"maximize": True, "eps": 1e-3},
        ),
        lr=0.3,
    ),
    "Adadelta": Case(({}, {"rho": 0.5, "weight_decay": 0.1}, {"maximize": True, "lr": 0.3}), lr=30.0),
    "Adamax": Case(({}, {"weight_decay": 0.1}, {"maximize": True, "betas": (0.5, 0.9)}), lr=0.1),
    "NAdam": Case(
        (
            {},
            {"weight_decay": 0.1},
            {"weight_decay": 0.1, "decoupled_weight_decay": True},
            {"momentum_decay": 0.5, "maximize": True},
        )
    ),
    "RAdam": Case(
        ({}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "decoupled_weight_decay": True}, {"maximize": True}),
        lr=0.1,
        training={"betas": (0.9, 0.99)},  # at 0.999 it holds back for longer than these problems last
    ),
    "RMSprop": Case(
        (
            {},
            {"momentum": 0.9, "weight_decay": 0.1},
            {"centered": True},
            {"centered": True, "momentum": 0.5, "maximize": True},
        ),
        lr=0.05,
    ),
    "Rprop": Case(({}, {"etas": (0.3, 1.5)}, {"step_sizes": (1e-3, 0.1)}, {"maximize": True})),
    "Lion": Case(({}, {"weight_decay": 0.1}, {"betas": (0.5, 0.8), "maximize": True}), lr=0.05),
    "LAMB": Case(
        ({}, {"weight_decay": 0.1, "max_grad_norm": None, "adapt_vectors": True}, {"maximize": True}),
        lr=0.03,
        complex=False,
    ),
    "LARS": Case(
        (
            {},
            {"weight_decay": 0.1, "trust_coefficient": 0.02, "adapt_vectors": True},
            {"momentum": 0.0, "maximize": True},
        ),
        lr=0.02,
        complex=False,
        training={"trust_coefficient": 1.0},
    ),
    "Adafactor": Case(
        ({}, {"weight_decay": 0.1, "d": 2.0}, {"eps": (1e-5, 1e-2), "beta2_decay": -0.5}, {"maximize": True}),
        lr=0.1,
        complex=False,
    ),
    "Muon": Case(
        ({}, {"weight_decay": 0.5, "adjust_lr_fn": "original"}, {"nesterov": False, "momentum": 0.5}),
        lr=0.3,
        complex=False,
    ),
    "Prodigy": Case(
        (
            {},
            {"weight_decay": 0.1, "bias_correction": True},
            {"safeguard_warmup": True, "d0": 1e-3},
            {"maximize": True},
        ),
        lr=1.0,
        complex=False,
    ),
    "Sophia": Case(({}, {"weight_decay": 0.5, "rho": 0.5}, {"maximize": True}), lr=0.05),
    "SGDScheduleFree": Case(
        ({}, {"weight_decay": 0.1, "warmup_steps": 5}, {"momentum": 0.5, "r": 1.0}, {"maximize": True}),
        lr=0.1,
        network_lr=1.0,
    ),
    "AdamWScheduleFree": Case(
        ({}, {"weight_decay": 0.1, "warmup_steps": 5}, {"betas": (0.95, 0.9), "r": 1.0}, {"maximize": True}), lr=0.1
    ),
}


def everything() -> dict[str, type[torch.optim.Optimizer]]:
    """Every optimizer class that is not a wrapper around another one."""
    return optim.catalogue() | {cls.__name__: cls for cls in optim.SPECIAL}


def all_options() -> list[tuple[str, dict[str, Any]]]:
    return [(name, options) for name, case in CASES.items() for options in case.options]
