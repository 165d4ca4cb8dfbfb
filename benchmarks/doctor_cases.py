"""Runs to be examined: small real data, several architectures, healthy recipes, and one fault of random severity.

Nothing here knows the doctor's rules. Every case comes as a pair, the healthy twin and the same recipe with one fault;
what either is called afterwards is decided by how it comes out (`benchmarks.doctor`), not by what was meant.
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
import math
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class Data:
    """Inputs and targets of training, validation and test rows; `kind` is "classes", "value", "bits" or "tokens"."""

    name: str
    kind: str
    train: tuple[Tensor, Tensor]
    val: tuple[Tensor, Tensor]
    outputs: int


@dataclasses.dataclass
class Plan:
    """A run that can be made: everything that a fault may change."""

    data: Data
    model: Callable[[], nn.Module]
    architecture: str
    optimizer: str
    lr: float
    batch: int
    steps: int
    schedule: str
    seed: int
    weight_decay: float = 0.0
    clip: float | None = None
    accumulate: int = 1
    smoothing: float = 0.0
    ragged: bool = False
    frozen: bool = False
    own_loss: nn.Module | None = None
    loss_sign: float = 1.0
    clear: bool = True
    train_mode: bool = True
    shuffle: bool = True
    skip_owner: int = 0
    spike_at: tuple[int, ...] = ()
    warm_start: int = 0
    change_model: Callable[[nn.Module], nn.Module] | None = None
    change_data: Callable[[Data, random.Random], Data] | None = None


# -- data ---------------------------------------------------------------------------------------------


@functools.cache
def load(name: str, folder: str) -> Data:
    """Return one data set, split by a fixed seed, standardised on its training rows."""
    draw = np.random.default_rng(0)
    if name == "tiny_shakespeare":
        return _text(Path(folder))
    if name == "japanese_vowels":
        z = np.load(Path(folder) / "japanese_vowels" / "japanese_vowels.npz")
        x = np.concatenate((z["X_train"], z["X_test"])).astype(np.float32)
        y = np.concatenate((z["y_train"], z["y_test"]))
        x = np.nan_to_num(x if x.shape[-1] == 12 else x.transpose(0, 2, 1))
        _, y = np.unique(y, return_inverse=True)
        kind = "classes"
    elif name == "california_housing":
        with gzip.open(Path(folder) / "california_housing" / "california_housing.csv.gz", "rt") as file:
            names = file.readline().strip().split(",")
            rows = np.genfromtxt(file, delimiter=",")
            target = names.index("median_house_value")
        numeric = [k for k in range(rows.shape[1]) if k != target and np.isfinite(rows[:, k]).mean() > 0.5]
        rows = rows[np.isfinite(rows[:, [*numeric, target]]).all(axis=1)]
        rows = rows[:: max(1, len(rows) // 3000)]
        x, y, kind = rows[:, numeric].astype(np.float32), rows[:, target].astype(np.float32), "value"
    else:
        from sklearn import datasets

        bits = name == "digits_bits"
        x, y = getattr(datasets, f"load_{name.removesuffix('_bits')}")(return_X_y=True)
        x = x.astype(np.float32)
        kind = "bits" if bits else "value" if name == "diabetes" else "classes"
        if bits:
            y = np.stack([(y >> k) & 1 for k in range(4)], axis=1).astype(np.float32)
    order = draw.permutation(len(x))
    cut = int(0.7 * len(x))
    train, val = order[:cut], order[cut:]
    axes = tuple(range(x.ndim - 1))
    mean, std = x[train].mean(axis=axes), x[train].std(axis=axes) + 1e-6
    x = (x - mean) / std if "digits" not in name else x / 16 - 0.3
    if kind == "value":
        y = ((y - y[train].mean()) / y[train].std()).astype(np.float32)
    outputs = 1 if kind == "value" else y.shape[1] if kind == "bits" else int(y.max()) + 1
    t = torch.as_tensor(y.astype(np.float32)[:, None] if kind == "value" else y)
    t = t.long() if kind == "classes" else t.float()
    return Data(name, kind, (torch.tensor(x[train]), t[train]), (torch.tensor(x[val]), t[val]), outputs)


def _text(folder: Path) -> Data:
    with gzip.open(folder / "tiny_shakespeare" / "tiny_shakespeare.txt.gz", "rt") as file:
        text = file.read()[:200_000]
    symbols = sorted(set(text))
    codes = torch.tensor([symbols.index(c) for c in text])
    windows = codes[: len(codes) // 25 * 25].reshape(-1, 25)
    x, y = windows[:, :-1], windows[:, 1:]
    cut = int(0.9 * len(x))
    return Data(
        "tiny_shakespeare", "tokens", (x[:cut], y[:cut]), (x[cut : cut + 300], y[cut : cut + 300]), len(symbols)
    )


# -- models -------------------------------------------------------------------------------------------

ACTS = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh, "silu": nn.SiLU, "elu": nn.ELU}


class Residual(nn.Module):
    """x + layer(x), optionally scaled by a number that starts at zero."""

    def __init__(self, inner: nn.Module, rezero: bool) -> None:
        super().__init__()
        self.inner = inner
        self.scale = nn.Parameter(torch.zeros(())) if rezero else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        return x + (y if self.scale is None else self.scale * y)


class Recurrent(nn.Module):
    """A recurrent layer and a linear one on its last state."""

    def __init__(self, kind: str, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.body = {"gru": nn.GRU, "lstm": nn.LSTM, "rnn": nn.RNN}[kind](inputs, width, batch_first=True)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)[0].mean(dim=1))


class Transformer(nn.Module):
    """Tokens or rows of numbers in, one answer per sequence or one per token out."""

    def __init__(self, inputs: int, length: int, width: int, depth: int, outputs: int, tokens: bool, pre: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(inputs, width) if tokens else nn.Linear(inputs, width)
        self.place = nn.Parameter(0.02 * torch.randn(length, width))
        block = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=pre)
        self.blocks = nn.ModuleList(
            [
                nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=pre)
                for _ in range(depth)
            ]
        )
        del block
        self.norm, self.head, self.tokens = nn.LayerNorm(width), nn.Linear(width, outputs), tokens
        self.register_buffer("mask", torch.triu(torch.full((length, length), -math.inf), diagonal=1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.place
        for block in self.blocks:
            x = block(x, src_mask=self.mask if self.tokens else None)
        x = self.norm(x)
        return self.head(x).transpose(1, 2) if self.tokens else self.head(x.mean(dim=1))


def mlp(
    features: int, outputs: int, width: int, depth: int, act: str, norm: str, dropout: float, res: str
) -> nn.Module:
    """Return a plain, normalised or residual perceptron with He initialisation."""
    parts: list[nn.Module] = [nn.Flatten(), nn.Linear(features, width), ACTS[act]()]
    for _ in range(depth - 1):
        block: list[nn.Module] = [nn.Linear(width, width)]
        block += {"batch": [nn.BatchNorm1d(width)], "layer": [nn.LayerNorm(width)], "none": []}[norm]
        block += [ACTS[act]()] + ([nn.Dropout(dropout)] if dropout else [])
        parts += [Residual(nn.Sequential(*block), res == "rezero")] if res != "none" else block
    model = nn.Sequential(*parts, nn.Linear(width, outputs))
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu" if act in ("relu", "gelu", "silu") else "tanh")
            if act == "tanh":
                module.weight.data.mul_(0.6)
            nn.init.zeros_(module.bias)
    nn.init.normal_(parts[-1].weight if False else model[-1].weight, std=width**-0.5)
    return model


def cnn(outputs: int, width: int, act: str, norm: str, deep: int) -> nn.Module:
    """Return a small convolutional network for 8 by 8 pictures."""
    parts: list[nn.Module] = [nn.Unflatten(1, (1, 8, 8))]
    channels = 1
    for k in range(deep):
        parts.append(nn.Conv2d(channels, width, 3, padding=1))
        parts += {"batch": [nn.BatchNorm2d(width)], "group": [nn.GroupNorm(4, width)], "none": []}[norm]
        parts += [ACTS[act](), nn.MaxPool2d(2) if k < 2 else nn.Identity()]
        channels = width
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(width * 4, outputs))


# -- healthy recipes ----------------------------------------------------------------------------------

DEVELOPMENT = {"data": ("digits", "breast_cancer", "wine", "diabetes", "digits_bits"), "other": False}
TEST = {
    "data": (
        "digits",
        "breast_cancer",
        "diabetes",
        "digits_bits",
        "california_housing",
        "japanese_vowels",
        "tiny_shakespeare",
    ),
    "other": True,
}


def draw_plan(r: random.Random, *, test: bool, folder: str) -> Plan:
    """Draw a recipe that should work; test plans also have data and architectures that development never saw."""
    data = load(r.choice((TEST if test else DEVELOPMENT)["data"]), folder)  # type: ignore[arg-type]
    make, architecture = _draw_model(r, data, test)
    optimizer = r.choice(
        ("SGD", "Adam", "AdamW", "AdamW", "RMSprop") if "transformer" not in architecture else ("Adam", "AdamW")
    )
    low, high = {"SGD": (0.02, 0.1), "RMSprop": (5e-4, 2e-3)}.get(optimizer, (1e-3, 5e-3))
    lr = math.exp(r.uniform(math.log(low), math.log(high)))
    return Plan(
        data=data,
        model=make,
        architecture=architecture,
        optimizer=optimizer,
        lr=lr,
        batch=r.choice((16, 32, 64)),
        steps=r.choice((200, 300, 400)),
        schedule=r.choice(("constant", "cosine", "warmup", "warmup")),
        seed=r.randrange(10**6),
        weight_decay=r.choice((0.0, 0.01)) if optimizer == "AdamW" else 0.0,
        clip=r.choice((None, None, 1.0)) if optimizer != "SGD" else r.choice((None, 5.0)),
        accumulate=r.choice((1, 1, 1, 2)),
        smoothing=r.choice((0.0, 0.0, 0.1)) if data.kind == "classes" else 0.0,
        ragged=r.random() < 0.3,
        frozen=r.random() < 0.07 and architecture.startswith("mlp"),
        warm_start=r.choice((0,) * 9 + (150,)),
    )


def _draw_model(r: random.Random, data: Data, test: bool) -> tuple[Callable[[], nn.Module], str]:
    outputs = data.outputs
    if data.kind == "tokens":
        width, depth, pre = r.choice((32, 48)), r.choice((1, 2)), r.random() < 0.7
        return lambda: Transformer(outputs, 24, width, depth, outputs, True, pre), f"transformer-{depth}"
    if data.name == "japanese_vowels":
        if r.random() < 0.3:
            width, depth = r.choice((32, 64)), r.choice((1, 2, 3))
            length = data.train[0].shape[1]
            return lambda: Transformer(12, length, width, depth, outputs, False, True), f"transformer-{depth}"
        kind, width = r.choice(("lstm", "gru", "lstm")), r.choice((32, 64))
        return lambda: Recurrent(kind, 12, width, outputs), kind
    if "digits" in data.name:
        pick = r.random()
        if pick < 0.3:
            width, act, deep = r.choice((8, 16)), r.choice(("relu", "gelu")), r.choice((2, 3))
            norm = r.choice(("group", "batch", "none") if test else ("batch", "none"))
            return lambda: cnn(outputs, width, act, norm, deep), f"cnn-{norm}-{deep}"
        if pick < 0.5:
            kind, width = r.choice(("lstm", "gru") if test else ("gru", "rnn")), r.choice((32, 64))
            return lambda: nn.Sequential(nn.Unflatten(1, (8, 8)), Recurrent(kind, 8, width, outputs)), kind
        if pick < 0.65:
            depth, width = r.choice((1, 2, 3) if test else (1, 2)), 32
            return (
                lambda: nn.Sequential(nn.Unflatten(1, (8, 8)), Transformer(8, 8, width, depth, outputs, False, True)),
                f"transformer-{depth}",
            )
    features = data.train[0][0].numel()
    deep = r.random() < 0.3
    depth = r.choice((6, 8)) if deep else r.choice((1, 2, 3))
    width = r.choice((24, 48, 96) if test else (32, 64))
    act = r.choice(("relu", "gelu", "tanh", "silu", "elu") if test else ("relu", "gelu", "tanh"))
    norm = r.choice(("layer", "batch")) if deep else r.choice(("none", "none", "layer", "batch"))
    res = r.choice(("plain", "rezero")) if deep else r.choice(("none", "none", "plain") if test else ("none",))
    dropout = r.choice((0.0, 0.0, 0.2))
    name = f"mlp-{'deep' if deep else 'shallow'}"
    return lambda: mlp(features, outputs, width, depth, act, norm, dropout, res), name


# -- faults -------------------------------------------------------------------------------------------


def fault_names() -> list[str]:
    """Return every fault that can be injected."""
    return list(FAULTS)


def inject(plan: Plan, fault: str, r: random.Random) -> Plan | None:
    """Return the plan with one fault in it, or None where the fault makes no sense for the plan."""
    return FAULTS[fault][1](dataclasses.replace(plan), r)


def _lr(low: float, high: float) -> Callable[[Plan, random.Random], Plan]:
    def change(p: Plan, r: random.Random) -> Plan:
        p.lr *= math.exp(r.uniform(math.log(low), math.log(high)))
        return p

    return change


def _too_high(p: Plan, r: random.Random) -> Plan:
    return _lr(100, 1000)(p, r) if p.optimizer != "SGD" else _lr(30, 300)(p, r)


def _swing(p: Plan, r: random.Random) -> Plan:
    p.schedule = "constant"
    return _lr(8, 40)(p, r)


def _deep(
    act: str, gain: float | None, std: float | None = None, bias: float = 0.0
) -> Callable[[Plan, random.Random], Plan | None]:
    def change(p: Plan, r: random.Random) -> Plan | None:
        if p.data.kind == "tokens" or p.data.name == "japanese_vowels":
            return None
        features, outputs = p.data.train[0][0].numel(), p.data.outputs
        depth, width = r.choice((8, 10, 12)), r.choice((32, 64))

        def make() -> nn.Module:
            model = mlp(features, outputs, width, depth, "relu" if act == "relu" else "tanh", "none", 0.0, "none")
            parts = [nn.Sigmoid() if act == "sigmoid" and isinstance(m, nn.Tanh) else m for m in model]
            model = nn.Sequential(*parts)
            for m in model:
                if isinstance(m, nn.Linear):
                    if act == "sigmoid":
                        nn.init.xavier_uniform_(m.weight)
                    if gain is not None:
                        m.weight.data.mul_(gain)
                    if std is not None:
                        nn.init.normal_(m.weight, std=std)
            return model

        p.model, p.architecture, p.warm_start, p.frozen = make, f"mlp-{depth}", 0, False
        return p

    return change


def _weights(change: Callable[[nn.Module, random.Random], None]) -> Callable[[Plan, random.Random], Plan]:
    def fault(p: Plan, r: random.Random) -> Plan:
        seed = r.randrange(10**6)

        def apply(model: nn.Module) -> nn.Module:
            change(model, random.Random(seed))
            return model

        p.change_model, p.warm_start = apply, 0
        return p

    return fault


def _matrices(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]


@torch.no_grad()
def _large(model: nn.Module, r: random.Random) -> None:
    std = r.choice((0.7, 1.0, 1.5))
    for m in _matrices(model):
        nn.init.normal_(m.weight, std=std)


@torch.no_grad()
def _equal(model: nn.Module, r: random.Random) -> None:
    value = r.choice((0.01, 0.05, 0.1))
    for m in _matrices(model):
        m.weight.fill_(value)


@torch.no_grad()
def _killed(model: nn.Module, r: random.Random) -> None:
    for m in _matrices(model)[:-1]:
        if m.bias is not None:
            m.bias.fill_(-r.choice((8.0, 12.0, 16.0)))


def _dead(p: Plan, r: random.Random) -> Plan | None:
    if not p.architecture.startswith(("mlp", "cnn")):
        return None
    features, outputs = p.data.train[0][0].numel(), p.data.outputs
    width, depth = r.choice((32, 64)), r.choice((2, 3))
    if p.architecture.startswith("mlp"):
        p.model = lambda: mlp(features, outputs, width, depth, "relu", "none", 0.0, "none")
    else:
        p.model = lambda: cnn(outputs, 8, "relu", "none", 2)
    p.frozen = False
    return _weights(_killed)(p, r)


def _flat(p: Plan, r: random.Random) -> Plan | None:
    changed = _deep("relu" if r.random() < 0.5 else "tanh", None, std=r.choice((1e-3, 5e-3)))(p, r)
    if changed is not None:
        changed.optimizer, changed.lr, changed.clip = "SGD", 0.05, None
    return changed


def _saturate(p: Plan, r: random.Random) -> Plan | None:
    if not p.architecture.startswith("mlp"):
        return None
    features, outputs, factor = p.data.train[0][0].numel(), p.data.outputs, r.choice((30.0, 50.0, 100.0))
    p.model = lambda: mlp(features, outputs, 64, 2, "tanh", "none", 0.0, "none")
    p.change_data = lambda data, r: _inputs(data, lambda x: x * factor)
    p.frozen = False
    return p


def _inputs(data: Data, change: Callable[[Tensor], Tensor]) -> Data:
    return dataclasses.replace(
        data, train=(change(data.train[0]), data.train[1]), val=(change(data.val[0]), data.val[1])
    )


def _targets(data: Data, change: Callable[[Tensor], Tensor], val: bool = True) -> Data:
    new = (data.val[0], change(data.val[1])) if val else data.val
    return dataclasses.replace(data, train=(data.train[0], change(data.train[1])), val=new)


def _only(
    kinds: str, change: Callable[[Plan, random.Random], Plan | None]
) -> Callable[[Plan, random.Random], Plan | None]:
    return lambda p, r: change(p, r) if p.data.kind in kinds.split() else None


def _data(change: Callable[[Data, random.Random], Data]) -> Callable[[Plan, random.Random], Plan]:
    def fault(p: Plan, r: random.Random) -> Plan:
        p.change_data, p.warm_start = change, 0
        return p

    return fault


def _nan(data: Data, r: random.Random) -> Data:
    def spoil(x: Tensor) -> Tensor:
        x = x.clone()
        rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(r.randrange(10**6)))[
            : max(2, len(x) // 60)
        ]
        x.flatten(1)[rows, r.randrange(x[0].numel())] = r.choice((math.nan, math.inf))
        return x

    return dataclasses.replace(data, train=(spoil(data.train[0]), data.train[1]))


def _raw(data: Data, r: random.Random) -> Data:
    draw = torch.Generator().manual_seed(r.randrange(10**6))
    x = data.train[0]
    scale = 10 ** (4 * torch.rand(x.shape[-1], generator=draw) - 0.5)
    shift = scale * (2 * torch.rand(x.shape[-1], generator=draw) - 0.5)
    return _inputs(data, lambda x: x * scale + shift)


def _permuted(data: Data, r: random.Random) -> Data:
    order = torch.randperm(len(data.train[0]), generator=torch.Generator().manual_seed(r.randrange(10**6)))
    return dataclasses.replace(data, train=(data.train[0], data.train[1][order]))


def _few(data: Data, r: random.Random) -> Data:
    draw = torch.Generator().manual_seed(r.randrange(10**6))
    rows = torch.randperm(len(data.train[0]), generator=draw)[: r.choice((60, 80, 120))]
    x, y = data.train[0][rows], data.train[1][rows].clone()
    if data.kind == "classes":
        wrong = torch.rand(len(y), generator=draw) < 0.3
        y[wrong] = torch.randint(0, data.outputs, (int(wrong.sum()),), generator=draw)
    else:
        y = y + y.std() * torch.randn(y.shape, generator=draw)
    return dataclasses.replace(data, train=(x, y))


def _rare(data: Data, r: random.Random) -> Data:
    y = data.train[1]
    rare = r.randrange(data.outputs)
    rows = (y == rare).nonzero().flatten()
    keep = torch.ones(len(y), dtype=torch.bool)
    keep[rows[max(3, round(r.uniform(0.01, 0.03) * len(y))) :]] = False
    return dataclasses.replace(data, train=(data.train[0][keep], y[keep]))


def _tails(data: Data, r: random.Random) -> Data:
    draw = torch.Generator().manual_seed(r.randrange(10**6))
    factor, share = r.uniform(15, 60), r.uniform(0.005, 0.02)

    def spoil(y: Tensor) -> Tensor:
        hit = torch.rand(y.shape, generator=draw) < share
        return torch.where(hit, factor * y.std() * torch.sign(torch.randn(y.shape, generator=draw)), y)

    return _targets(data, spoil, val=False)


def _units(data: Data, r: random.Random) -> Data:
    std, mean = math.exp(r.uniform(math.log(50), math.log(5000))), r.choice((0.0, 2.0, 5.0))
    return _targets(data, lambda y: std * (y + mean))


def _overfit(p: Plan, r: random.Random) -> Plan:
    p.change_data, p.steps, p.schedule, p.warm_start, p.weight_decay = _few, 400, "constant", 0, 0.0
    return p


def _set(**values: object) -> Callable[[Plan, random.Random], Plan]:
    return lambda p, r: dataclasses.replace(p, **values)  # type: ignore[arg-type]


def _spike(p: Plan, r: random.Random) -> Plan:
    at = r.randrange(p.steps // 3, p.steps - 40)
    return dataclasses.replace(p, spike_at=(at,), clip=None)


def _decay(p: Plan, r: random.Random) -> Plan:
    p.optimizer, p.weight_decay = r.choice(
        (("Adam", r.uniform(0.1, 1.0)), ("SGD", r.uniform(0.1, 1.0)), ("AdamW", r.uniform(10, 60)))
    )
    p.lr = {"SGD": 0.05}.get(p.optimizer, 3e-3)
    return p


def _forget(p: Plan, r: random.Random) -> Plan:
    p.warm_start, p.schedule = 300, "constant"
    return _lr(60, 300)(p, r) if p.optimizer != "SGD" else _lr(20, 60)(p, r)


def _cold(p: Plan, r: random.Random) -> Plan | None:
    p.schedule, p.warm_start, p.clip = "cosine", 0, None
    return _lr(8, 30)(p, r)


def _eval_mode(p: Plan, r: random.Random) -> Plan | None:
    hungry = any(
        isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) or (isinstance(m, nn.Dropout) and m.p > 0)
        for m in p.model().modules()
    )
    return dataclasses.replace(p, train_mode=False) if hungry and "transformer" not in p.architecture else None


def _adagrad(p: Plan, r: random.Random) -> Plan:
    p.optimizer, p.schedule, p.warm_start = "Adagrad", "constant", 0
    p.lr = 10 ** r.uniform(-3.3, -2.3)
    return p


def _softmax(p: Plan, r: random.Random) -> Plan:
    p.change_model, p.smoothing = lambda model: nn.Sequential(model, nn.Softmax(dim=1)), 0.0
    return p


def _clipped(p: Plan, r: random.Random) -> Plan:
    p.optimizer, p.lr, p.clip = "SGD", 0.05, 10 ** r.uniform(-4, -2.5)
    return p


# fault -> (codes that name its cause, first the one meant), how to inject it
Inject = Callable[[Plan, random.Random], Plan | None]
FAULTS: dict[str, tuple[tuple[str, ...], Inject]] = {
    "nan input": (("TV201",), _only("classes value bits", _data(_nan))),
    "rate too high": (("TV202",), _too_high),
    "rate too low": (("TV203",), _lr(1e-4, 2e-3)),
    "oscillation": (("TV204", "TV202"), _swing),
    "vanishing": (("TV206",), _deep("sigmoid", None)),
    "exploding": (("TV207", "TV211"), _deep("relu", 2.0)),
    "dead units": (("TV208",), _dead),
    "saturation": (("TV209", "TV220"), _saturate),
    "flat": (("TV210", "TV211", "TV206"), _flat),
    "large weights": (("TV211", "TV207"), _weights(_large)),
    "equal weights": (("TV211",), _weights(_equal)),
    "no warmup": (("TV212", "TV202", "TV204"), _cold),
    "spike": (("TV213",), _spike),
    "overfit": (("TV214", "TV215"), _only("classes value", _overfit)),
    "double softmax": (("TV216",), _only("classes tokens", _softmax)),
    "rare class": (("TV217",), _only("classes", _data(_rare))),
    "outliers": (("TV218",), _only("value", _data(_tails))),
    "target units": (("TV219",), _only("value", _data(_units))),
    "raw inputs": (("TV220",), _only("classes value", _data(_raw))),
    "permuted labels": (("TV221", "TV231"), _only("classes value", _data(_permuted))),
    "decay": (("TV222",), _decay),
    "forgetting": (("TV223",), _forget),
    "gradients not cleared": (("TV224",), _set(clear=False)),
    "clipping": (("TV225",), _clipped),
    "not in the optimizer": (
        ("TV226",),
        lambda p, r: dataclasses.replace(p, skip_owner=r.choice((1, 2)), frozen=False),
    ),
    "evaluation mode": (("TV227",), _eval_mode),
    "sorted": (("TV228",), _only("classes", _set(shuffle=False))),
    "sign": (("TV229",), _set(loss_sign=-1.0)),
    "adagrad": (("TV230", "TV203"), _adagrad),
}
