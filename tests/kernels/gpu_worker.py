"""What the tests of the GPU's kernels run in processes of their own: Triton decides at import how it executes.

`python gpu_worker.py interpret OUT` runs kernels in Triton's interpreter on the CPU, `compile OUT CAPABILITY` compiles
them for a GPU that need not be there. Both write what they found, by case, to OUT.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

UNARY = ("abs", "exp", "log", "log1p", "sigmoid", "sign", "softplus", "sqrt", "tanh")
BINARY = ("maximum", "minimum", "pow")
SIZES = (1, 5, 1024, 9000, 0)  # less than a block, a whole block, more than a chunk, nothing
HALVES = ("AdamW", "SGD momentum")  # the cases that also run on other types


def optimizer_cases() -> Iterator[tuple[str, type[Any], dict[str, Any]]]:
    """Yield every elementwise optimizer with each of its switches, by name."""
    from trivet import optim

    ignored = ("foreach", "fused", "capturable", "differentiable")
    for name, cls in sorted(optim.catalogue().items()):
        if not issubclass(cls, optim.ElementwiseOptimizer):
            continue
        given = inspect.signature(cls).parameters
        switches = [key for key, p in given.items() if isinstance(p.default, bool) and key not in ignored]
        yield name, cls, {}
        if "momentum" in given:
            yield f"{name} momentum", cls, {"momentum": 0.9, "weight_decay": 0.1}
        for key in switches:
            yield f"{name} {key}", cls, {key: True} | ({"momentum": 0.9} if key == "nesterov" else {})


def trained(cls: type[Any], keywords: dict[str, Any], backend: str, dtype: torch.dtype) -> list[torch.Tensor]:
    """Return parameters and states after three steps (one in bfloat16); one parameter has no gradient in the second."""
    draw = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(size, generator=draw).to(dtype)) for size in SIZES]
    optimizer = cls(params, backend=backend, **keywords)
    for step in range(1 if dtype == torch.bfloat16 else 3):
        for param in params:
            param.grad = torch.randn(param.shape, generator=draw).to(dtype)
        if step == 1:
            params[1].grad = None
        optimizer.step()
    states = [s for p in params for s in optimizer.state[p].values() if isinstance(s, torch.Tensor)]
    return [p.detach() for p in params] + states


GUARDED = ("AdamW", "SGD momentum", "Lion")  # the cases that also run with a guard


def guarded(
    cls: type[Any], keywords: dict[str, Any], backend: str, device: str = "cpu"
) -> tuple[list[torch.Tensor], int, float]:
    """Return parameters and states after six guarded steps, of which two have no finite norm: the first, and one."""
    draw = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(size, generator=draw).to(device)) for size in SIZES]
    optimizer = cls(params, backend=backend, **keywords)
    optimizer.guard(max_norm=10.0)
    for step in range(6):
        for param in params:
            param.grad = (torch.randn(param.shape, generator=draw) * 10 ** (step % 3 - 1)).to(device)
        if step in (0, 3):
            params[3].grad[8999] = torch.nan if step else torch.inf  # type: ignore[index]
        optimizer.step()
    states = [s for p in params for s in optimizer.state[p].values() if isinstance(s, torch.Tensor)]
    found = [p.detach().cpu() for p in params] + [s.cpu() for s in states]
    return found, optimizer.skipped_steps, optimizer.gradient_norm


def loss_cases() -> Iterator[tuple[str, Callable[..., torch.Tensor], dict[str, Any], Any]]:
    """Yield every pointwise loss, with settings that take each of its rules, and its example."""
    from trivet import losses
    from trivet.losses.examples import EXAMPLES

    variants: dict[str, list[dict[str, Any]]] = {
        "asymmetric_loss": [{"clip": 0.0}],
        "binary_cross_entropy_with_logits": [{"label_smoothing": 0.1}, {"pos_weight": torch.tensor([3.0])}],
        "hinge_loss": [{"squared": True}],
    }
    for name, example in EXAMPLES.items():
        function = getattr(losses, name, None)
        if function is None or "pointwise" not in function.__code__.co_names:
            continue  # row-wise and region losses have no kernel here
        for keywords in [{}, *variants.get(name, [])]:
            label = " ".join([name, *keywords])
            yield label, function, example.arguments | keywords, example


def evaluated(
    function: Callable[..., torch.Tensor], keywords: dict[str, Any], example: Any, backend: str, settings: int = 7
) -> list[Any]:
    """Return value and gradient of a batch in several settings, from above scaled or not."""
    torch.manual_seed(0)
    input, target = example.batch(1500, 3.0)
    target = target.float() if target.is_floating_point() else target
    weight = torch.rand(len(target)).round(decimals=1)
    masked = torch.arange(target.numel()).view(target.shape) % 3 == 0
    by_element = "mask" in inspect.signature(function).parameters and input.shape == target.shape
    found: list[Any] = []
    for dtype, arguments, above in (
        (torch.float32, {"reduction": "mean", "sample_weight": weight}, 3.0),
        (torch.float32, {"reduction": "none"}, 2.0),
        (torch.float32, {"reduction": "mean"}, 1.0),
        (torch.float32, {"reduction": "sum", "sample_weight": weight}, 1.0),
        (torch.float64, {"reduction": "mean"}, 1.0),
        (torch.float16, {"reduction": "sum"}, 1.0),
        (torch.float32, {"mask": ~masked, "sample_weight": weight} if by_element else {}, 1.0),
    )[:settings]:
        x = input.to(dtype, copy=True)
        if "mask" in arguments:
            x[masked] = torch.nan
        x.requires_grad_()
        value = function(x, target, backend=backend, **keywords, **arguments)
        (gradient,) = torch.autograd.grad(above * value.sum(), x)
        found.append((value.detach(), gradient))
    return found


def numbers(dtype: type[np.floating[Any]]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return pairs of numbers: every exponent and sign, pairs of special values, and powers with finite results."""
    rng = np.random.default_rng(0)
    of = np.finfo(dtype)
    above = [0.0, of.smallest_subnormal, of.tiny, of.eps, 0.5, 0.625, 1.0, 1.5, 2.0, 3.0, 88.7, 104.0, of.max, np.inf]
    special = np.array([*above, *(-x for x in above), np.nan], dtype=dtype)
    pairs = np.stack(np.meshgrid(special, special)).reshape(2, -1)
    unsigned = np.uint32 if dtype is np.float32 else np.uint64
    bits = rng.integers(0, 1 << 32, 40000, dtype=np.uint64).astype(unsigned) << (8 * of.dtype.itemsize - 32)
    spread = (bits | rng.integers(0, 1 << 20, bits.size).astype(unsigned)).view(dtype)
    near = rng.choice([-1.0, 1.0], 10000) * 10 ** rng.uniform(-8, 2, 10000)
    base = 10 ** rng.uniform(-20, 20, 10000)
    power = rng.uniform(-87, 88, 10000) / np.log(base)
    x = np.concatenate([pairs[0], spread, near.astype(dtype), base.astype(dtype)])
    y = np.concatenate([pairs[1], rng.permuted(spread), rng.permuted(near).astype(dtype), power.astype(dtype)])
    return x, y


def _namespace() -> Any:
    from trivet.kernels import gpu

    lines = [
        f"@triton.jit\ndef {name}_of(x, y, out, n, BLOCK: tl.constexpr):\n"
        "    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)\n"
        f"    tl.store(out + i, xp.{name}(tl.load(x + i, i < n){second}), i < n)\n"
        for names, second in ((UNARY, ""), (BINARY, ", tl.load(y + i, i < n)"))
        for name in names
    ]
    return gpu.module("\n\n".join(lines))


def _interpreted_namespace() -> Iterator[tuple[str, Any]]:
    from trivet.kernels import gpu

    module = _namespace()
    for dtype in (np.float32, np.float64):
        x, y = map(torch.from_numpy, numbers(dtype))
        for name in (*UNARY, *BINARY):
            out = torch.empty_like(x)
            block = 1 << (len(x) - 1).bit_length()
            gpu.launch(getattr(module, f"{name}_of"), 1, x, y, out, len(x), like=x, BLOCK=block)
            yield f"xp {name} {dtype.__name__}", out


def _interpreted_optimizers() -> Iterator[tuple[str, Any]]:
    for name, cls, keywords in optimizer_cases():
        types = (torch.float32, torch.float64, torch.bfloat16, torch.float16) if name in HALVES else (torch.float32,)
        for dtype in types:
            yield f"{name} {dtype}", trained(cls, keywords, "triton", dtype)
        if name in GUARDED:
            yield f"{name} guarded", guarded(cls, keywords, "triton")


def _interpreted_losses() -> Iterator[tuple[str, Any]]:
    for name, function, keywords, example in loss_cases():
        yield name, evaluated(function, keywords, example, "triton")


class Compiler:
    """Stands in for `gpu.launch`: compiles what would have been launched, for GPUs that are not there."""

    def __init__(self, *capabilities: int) -> None:
        from triton.backends.compiler import GPUTarget

        self.targets = [GPUTarget("cuda", capability, 32) for capability in capabilities]
        self.case = ""
        self.found: dict[str, str] = {}
        self.seen: set[object] = set()

    def launch(self, kernel: Any, programs: int, *arguments: Any, like: torch.Tensor, **constants: Any) -> None:
        """Compile a kernel for arguments of these types."""
        import triton
        from triton.compiler import ASTSource
        from triton.runtime.jit import mangle_type

        options = {"enable_fp_fusion": True, "num_warps": constants.pop("num_warps", 4)}
        given = dict(zip(kernel.arg_names, arguments, strict=False))
        types = {name: mangle_type(value) for name, value in given.items() if value is not None}
        constants |= {name: None for name, value in given.items() if value is None}
        key = (kernel.fn.__module__, kernel.fn.__name__, *types.items(), *constants.items())
        if key in self.seen:
            return
        self.seen.add(key)
        # What a launch would find: addresses and sizes that 16 divides decide how many numbers are read at once.
        places = [
            k
            for k, name in enumerate(kernel.arg_names)
            if types.get(name, "").startswith("*") or (isinstance(n := given.get(name), int) and n and n % 16 == 0)
        ]
        source = ASTSource(
            fn=kernel,
            signature={name: types.get(name, "constexpr") for name in kernel.arg_names},
            constexprs=constants,
            attrs={(k,): [["tt.divisibility", 16]] for k in places},
        )
        name = f"{self.case} {kernel.fn.__name__} {' '.join(types.values())}"
        for target in self.targets:
            text: str = triton.compile(source, target=target, options=options).asm["ptx"]
            self.found[name if len(self.targets) == 1 else f"{name} sm_{target.arch}"] = text

    def install(self) -> None:
        """Take the place of every launch from here on."""
        from trivet.kernels import gpu

        gpu.launch, gpu.executes = self.launch, lambda tensor: True  # type: ignore[assignment]

    def run(self) -> dict[str, str]:
        """Go through every case, and return the assembly of each kernel under its case's name and its types."""
        self.install()
        module, x = _namespace(), torch.ones(1)
        for name in (*UNARY, *BINARY):
            self.case = f"xp {name}"
            self.launch(getattr(module, f"{name}_of"), 1, x, x, x, 1, like=x, BLOCK=1024)
        for name, cls, keywords in optimizer_cases():
            types = (torch.float32, torch.float64, torch.bfloat16) if name == "AdamW" else (torch.float32,)
            for dtype in types:
                self.case = f"{name} {dtype}"
                trained(cls, keywords, "triton", dtype)
            if name in GUARDED:
                self.case = f"{name} guarded {torch.float32}"
                guarded(cls, keywords, "triton")
        for name, function, keywords, example in loss_cases():
            self.case = name
            evaluated(function, keywords, example, "triton", settings=7 if name in ("mse_loss", "focal_loss") else 2)
        return self.found


def main(what: str, out: str, capability: str = "") -> None:
    """Run every case and store what it gave."""
    if what == "interpret":
        parts = (_interpreted_namespace(), _interpreted_optimizers(), _interpreted_losses())
        found = dict(case for cases in parts for case in cases)
    else:
        found = Compiler(int(capability)).run()
    torch.save(found, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
