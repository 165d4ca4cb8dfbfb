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


def optimizer_rules() -> dict[str, tuple[Any, int]]:
    """Return every rule of the cases, and how many tensors it takes."""
    rules = {}
    for _, cls, keywords in optimizer_cases():
        optimizer = cls([torch.zeros(1, requires_grad=True)], **keywords)
        group = optimizer.param_groups[0]
        rule = optimizer.rule(group)
        rules[f"{rule.__module__.rpartition('.')[2]}.{rule.__name__}"] = rule, 2 + len(optimizer.states(group))
    return rules


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


def _compiled_namespace(assemble: Callable[..., str]) -> Iterator[tuple[str, Any]]:
    module = _namespace()
    for name in (*UNARY, *BINARY):
        signature = {"x": "*fp32", "y": "*fp32", "out": "*fp32", "n": "i32"}
        yield f"xp {name}", assemble(getattr(module, f"{name}_of"), signature, {"BLOCK": 1024})


def _compiled_optimizers(assemble: Callable[..., str]) -> Iterator[tuple[str, Any]]:
    from trivet.kernels import multi_tensor_gpu

    for name, (rule, columns) in optimizer_rules().items():
        types = (torch.float32, torch.bfloat16, torch.float64) if name == "adam.adam" else (torch.float32,)
        for dtype in types:
            kernel = multi_tensor_gpu._kernel(rule, (dtype,) * columns).update
            signature = {"chunks": "*i64", "addresses": "*i64", "fresh": "*i64", "tensors": "i32"}
            constants = {"BLOCK": multi_tensor_gpu.BLOCK, "ALIGNED": True}
            yield f"{name} {dtype}", assemble(kernel, signature, constants)


def _assembler(capability: int) -> Callable[..., str]:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    target = GPUTarget("cuda", capability, 32)

    def assemble(kernel: Any, signature: dict[str, str], constants: dict[str, object]) -> str:
        pointers = [k for k, kind in enumerate(signature.values()) if kind.startswith("*")]
        source = ASTSource(
            fn=kernel,
            signature={name: signature.get(name, "constexpr") for name in kernel.arg_names},
            constexprs=constants,
            attrs={(k,): [["tt.divisibility", 16]] for k in pointers},
        )
        text: str = triton.compile(source, target=target, options={"enable_fp_fusion": True}).asm["ptx"]
        return text

    return assemble


def main(what: str, out: str, capability: str = "") -> None:
    """Run every case and store what it gave."""
    if what == "interpret":
        found = dict(case for cases in (_interpreted_namespace(), _interpreted_optimizers()) for case in cases)
    else:
        assemble = _assembler(int(capability))
        found = dict(c for cases in (_compiled_namespace(assemble), _compiled_optimizers(assemble)) for c in cases)
    torch.save(found, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
