"""The GPU's kernels without a GPU: compiled for two generations, and run by Triton's interpreter on the CPU.

Nothing here shows how fast they are, nor that a GPU agrees with the interpreter: see docs/limits.md.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import gpu_worker
import numpy as np
import pytest
import torch
from gpu_worker import BINARY, HALVES, UNARY
from numpy.typing import NDArray

from trivet.errors import BackendError
from trivet.kernels import gpu, multi_tensor_gpu
from trivet.kernels.xp import reference
from trivet.optim import SGD

pytest.importorskip("triton")

Found = dict[str, Any]
CASES = {name: (cls, keywords) for name, cls, keywords in gpu_worker.optimizer_cases()}
LOSSES = {name: case for name, *case in gpu_worker.loss_cases()}


def _work(folder: Path, what: str, *arguments: str) -> Found:
    """Run the worker in a process of its own: Triton decides at its import whether it interprets."""
    out = folder / "found.pt"
    script = Path(gpu_worker.__file__)
    settings = {"TRITON_INTERPRET": str(int(what == "interpret")), "TRITON_CACHE_DIR": str(folder / "triton")}
    subprocess.run(
        [sys.executable, "-W", "ignore", str(script), what, str(out), *arguments], env=os.environ | settings, check=True
    )
    found: Found = torch.load(out)
    return found


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return _work(tmp_path_factory.mktemp("interpreted"), "interpret")


@pytest.fixture(scope="module", params=[80, 90])
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Found:
    return _work(tmp_path_factory.mktemp("compiled"), "compile", str(request.param))


def _exact(name: str, x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]:
    """The reference in double precision, where torch is far finer than 2 ulp of single precision."""
    arguments = (x, y) if name in BINARY else (x,)
    exact: NDArray[np.float64] = getattr(reference, name)(*(torch.from_numpy(a).double() for a in arguments)).numpy()
    return exact


@pytest.mark.parametrize("name", [*UNARY, *BINARY])
def test_single_precision_is_within_two_ulp_over_the_whole_range(name: str, interpreted: Found) -> None:
    values = interpreted[f"xp {name} float32"].numpy()
    exact = _exact(name, *gpu_worker.numbers(np.float32))
    with np.errstate(over="ignore"):
        rounded = exact.astype(np.float32)
    finite = np.isfinite(rounded)
    np.testing.assert_array_equal(values[~finite], rounded[~finite])
    size = np.maximum(np.abs(exact[finite]), 2.0**-126)  # below it the spacing stays that of 2**-126
    errors = np.abs(values[finite].astype(np.float64) - exact[finite]) / 2.0 ** (np.floor(np.log2(size)) - 23)
    assert errors.max() <= 2


@pytest.mark.parametrize("name", [*UNARY, *BINARY])
def test_double_precision_agrees_with_the_reference(name: str, interpreted: Found) -> None:
    values = interpreted[f"xp {name} float64"].numpy()
    exact = _exact(name, *gpu_worker.numbers(np.float64))
    # exp(y log x) multiplies the rounding of log x by up to 700; torch gives some subnormal results as 0.
    np.testing.assert_allclose(values, exact, rtol=1e-12 if name == "pow" else 4e-15, atol=1e-300)


@pytest.mark.parametrize("name", CASES)
def test_an_interpreted_optimizer_equals_the_reference(name: str, interpreted: Found) -> None:
    cls, keywords = CASES[name]
    expected = gpu_worker.trained(cls, keywords, "torch", torch.float32)
    # The kernel rounds per-step numbers to float32, the reference multiplies by doubles: an ulp or two a step of the
    # largest numbers that were added (RMSprop's momentum reaches 20, and some of it cancels).
    for ours, theirs in zip(interpreted[f"{name} {torch.float32}"], expected, strict=True):
        size = max(1.0, float(theirs.abs().max())) if theirs.numel() else 1.0
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6 * size)


@pytest.mark.parametrize("name", HALVES)
def test_other_types_are_computed_wide_and_stored_as_declared(name: str, interpreted: Found) -> None:
    cls, keywords = CASES[name]
    # An ulp of float32 may decide how float16 rounds; the interpreter cuts bfloat16 off instead of rounding it.
    for dtype, rtol in ((torch.float64, 1e-14), (torch.float16, 2e-3), (torch.bfloat16, 2.0**-7)):
        expected = gpu_worker.trained(cls, keywords, "torch", dtype)
        torch.testing.assert_close(interpreted[f"{name} {dtype}"], expected, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("name", gpu_worker.GUARDED)
def test_a_guard_whose_decision_stays_on_the_gpu_equals_one_that_is_asked(name: str, interpreted: Found) -> None:
    expected, skipped, norm = gpu_worker.guarded(*CASES[name], "torch")
    found = interpreted[f"{name} guarded"]
    assert skipped == found[1] == 2
    assert found[2] == pytest.approx(norm, rel=1e-6)
    for ours, theirs in zip(found[0], expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_every_kernel_compiles_and_single_precision_stays_single(compiled: Found) -> None:
    # f64 would mean that a literal or a number brought double precision in, at 1/2 to 1/64 of the speed.
    doubles = {name for name, text in compiled.items() if ".f64" in text}
    assert doubles == {name for name in compiled if "float64" in name or "*fp64" in name}
    for name in LOSSES:
        assert any(found.startswith(name.split()[0]) for found in compiled), name


def _of(compiled: Found, case: str) -> str:
    (text,) = (text for name, text in compiled.items() if name.startswith(f"{case} "))
    return str(text)


def test_a_whole_block_is_read_and_written_sixteen_bytes_at_a_time(compiled: Found) -> None:
    text = _of(compiled, f"Adam {torch.float32}")
    for operation, columns in (("ld", 4), ("st", 3)):
        wide = re.findall(rf"{operation}\.global\.v4\.b32", text)
        assert len(wide) == columns * multi_tensor_gpu.BLOCK // (4 * 128)


def test_roots_and_halves_are_rounded_and_not_approximated(compiled: Found) -> None:
    assert not any("sqrt.approx" in text for text in compiled.values())
    assert "cvt.rn.bf16" in _of(compiled, f"AdamW {torch.bfloat16}")


@pytest.mark.parametrize("name", LOSSES)
def test_an_interpreted_loss_and_its_gradient_equal_the_reference(name: str, interpreted: Found) -> None:
    expected = gpu_worker.evaluated(*LOSSES[name], "torch")
    for ours, theirs in zip(interpreted[name], expected, strict=True):
        for got, wanted in zip(ours, theirs, strict=True):
            # A sum of 1500 values, and slopes that are differences of two functions of 2 ulp each.
            scale = float(wanted.abs().max())
            rtol = {torch.float64: 1e-13, torch.float32: 1e-6, torch.float16: 1e-3}[wanted.dtype]
            torch.testing.assert_close(got, wanted, rtol=rtol, atol=rtol * scale)


def test_chunks_cover_every_element_once() -> None:
    sizes = [0, 1, multi_tensor_gpu.CHUNK, multi_tensor_gpu.CHUNK + 1, 0, 3 * multi_tensor_gpu.CHUNK - 1]
    seen = [np.zeros(size, dtype=int) for size in sizes]
    for tensor, offset, size in multi_tensor_gpu._cut(sizes):
        assert 0 < size <= multi_tensor_gpu.CHUNK
        seen[tensor][offset : offset + size] += 1
    assert all((counts == 1).all() for counts in seen)


def _stepped(backend: str) -> None:
    param = torch.nn.Parameter(torch.ones(3))
    param.grad = torch.ones(3)
    SGD([param], backend=backend).step()  # type: ignore[arg-type]


def test_triton_by_name_says_what_it_needs() -> None:
    with pytest.raises(BackendError, match=r"torch\.float32 on cpu .* on a GPU .* backend='auto'"):
        _stepped("triton")


def test_without_triton_its_name_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "available", lambda: False)
    with pytest.raises(BackendError, match=r"pip install 'trivet\[gpu\]'"):
        _stepped("triton")
    _stepped("auto")
