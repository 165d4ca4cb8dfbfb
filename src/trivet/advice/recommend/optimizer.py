"""Which optimizer: how to move, given what the model is made of."""

from __future__ import annotations

from trivet.facts import Profile
from trivet.recipes import Advice, Edit, Recipe


def adamw(profile: Profile, recipe: Recipe) -> tuple[Advice, ...]:
    """The default: per-coordinate steps with decoupled decay, the flattest response to an untuned rate."""
    return (
        Advice(
            Edit("optimizer", {"name": "AdamW", "lr": 1e-3, "weight_decay": 0.01}),
            "AdamW scales each coordinate's step by its own gradient history, so layers and features of different "
            "scales need no tuning of their own, and good rates span about a decade.",
            {"layers": ", ".join(f"{n} {name}" for name, n in profile.model.layers.items())},
            "Loshchilov & Hutter 2019; Sivaprasad et al. 2020: best at a small tuning budget",
            0.7,
            {
                "SGD": "as good once its rate is tuned, but that rate depends on every scale in the model",
                "Adam with weight_decay": "L2 inside Adam decays the weights with large gradients least",
            },
        ),
    )


def momentum_for_convolutions(profile: Profile, recipe: Recipe) -> tuple[Advice, ...] | None:
    """A normalised convolutional network from scratch is where SGD with momentum is at home."""
    model = profile.model
    if not model.layers.get("convolution") or not model.layers.get("batch_norm") or model.pretrained:
        return None
    if model.layers.get("attention") or model.layers.get("recurrence"):
        return None
    return (
        Advice(
            Edit(
                "optimizer",
                {"name": "SGD", "lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4},
            ),
            "Batch normalisation makes the convolutions indifferent to the scale of their weights, so one rate fits "
            "all layers, and SGD with Nesterov momentum generalises at least as well as adaptive methods.",
            {
                "convolutions": model.layers["convolution"],
                "batch norms": model.layers["batch_norm"],
            },
            "timm and torchvision reference recipes; Wilson et al. 2017",
            0.65,
            {"AdamW": "ties once both are tuned; a contender for a search"},
        ),
    )


def gentle_for_pretrained(profile: Profile, recipe: Recipe) -> tuple[Advice, ...] | None:
    """Loaded weights are close to good already: small steps."""
    if not profile.model.pretrained:
        return None
    return (
        Advice(
            Edit("optimizer", {"name": "AdamW", "lr": 1e-4, "weight_decay": 0.01}),
            "The weights were loaded, not drawn: large steps would destroy what they know before the head has learnt.",
            {"parameters": profile.model.parameters},
            "AutoGluon-Multimodal and Hugging Face defaults (1e-4, 5e-5)",
            0.75,
            {"a rate for training from scratch": "ten to a hundred times too high here"},
        ),
    )


def decay_groups(profile: Profile, recipe: Recipe) -> tuple[Advice, ...] | None:
    """Decay is for weight matrices."""
    if not recipe.optimizer.get("weight_decay"):
        return None
    return (
        Advice(
            Edit("groups", {"no_decay": ["bias", "norm", "embedding"], "layer_decay": 1.0}),
            "Weight decay shrinks matrices that can be large without need; biases, norm scales and embeddings have "
            "no such freedom, and decaying them only hurts the fit.",
            {"weight_decay": float(str(recipe.optimizer["weight_decay"]))},
            "common practice since Goyal et al. 2017; embeddings as in nanoGPT-style groups",
            0.8,
        ),
    )


def clipping(profile: Profile, recipe: Recipe) -> tuple[Advice, ...] | None:
    """Clip where a single batch can have a gradient many times the usual one."""
    layers = profile.model.layers
    wild = [name for name in ("recurrence", "attention") if layers.get(name)]
    unnormalised = profile.model.depth >= 3 and not profile.model.normalised
    if not wild and not unnormalised and profile.kind not in ("regression", "counts"):
        return None
    cause = wild[0] if wild else "no normalisation layers" if unnormalised else "an unbounded regression loss"
    return (
        Advice(
            Edit("clip", {"norm": 1.0}),
            f"With {cause} a single batch can produce a gradient many times the usual one; clipping the global norm "
            "bounds that step and leaves ordinary ones alone.",
            {"depth": profile.model.depth},
            "Pascanu et al. 2013; norm 1 as in most transformer recipes",
            0.6,
        ),
    )


RULES = (adamw, momentum_for_convolutions, gentle_for_pretrained, decay_groups, clipping)
