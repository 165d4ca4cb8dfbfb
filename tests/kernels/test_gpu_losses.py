"""Softmax and region losses on the GPU's kernels, without a GPU: interpreted on the CPU, compiled for two generations.

The oracle is the plain form in double precision, which the other tests of losses hold to torch and to the papers.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import gpu_loss_worker
import pytest
import torch
from gpu_loss_worker import CAPABILITIES, COMPILED, Case

from trivet import losses
from trivet.errors import BackendError
from trivet.kernels import rows_gpu

pytest.importorskip("triton")

CASES = {**gpu_loss_worker.row_cases(), **gpu_loss_worker.region_cases()}


def _work(folder: Path, what: str) -> dict[str, Any]:
    """Run the worker in a process of its own: Triton decides at its import whether it interprets."""
    out = folder / "found.pt"
    script = Path(gpu_loss_worker.__file__)
    settings = {"TRITON_INTERPRET": str(int(what == "interpret")), "TRITON_CACHE_DIR": str(folder / "triton")}
    subprocess.run([sys.executable, "-W", "ignore", str(script), what, str(out)], env=os.environ | settings, check=True)
    found: dict[str, Any] = torch.load(out)
    return found


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return _work(tmp_path_factory.mktemp("interpreted"), "interpret")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return _work(tmp_path_factory.mktemp("compiled"), "compile")


@pytest.mark.parametrize("name", CASES)
def test_an_interpreted_loss_and_its_gradient_equal_the_exact_ones(name: str, interpreted: dict[str, Any]) -> None:
    case: Case = CASES[name]
    value, gradient = interpreted[name]
    filled = torch.where(case.x.isnan(), 0, case.x)  # ignored positions may hold NaN, which the plain form passes on
    exact = gpu_loss_worker.evaluated(case, "torch", filled.double().contiguous())
    assert gradient.dtype == case.x.dtype
    # A few ulp of the largest terms. A half-precision gradient is rounded once, and cut off in bfloat16, which the
    # interpreter does not round.
    rtol, of_largest = {
        torch.float64: (1e-12, 1e-13),
        torch.float32: (1e-5, 1e-6),
        torch.float16: (2.0**-11 + 1e-5, 3e-8),
        torch.bfloat16: (2.0**-7, 1e-6),
    }[case.x.dtype]
    precise = 1e-13 if case.x.dtype == torch.float64 else 2e-6
    torch.testing.assert_close(value.double(), exact[0], rtol=precise, atol=precise * 0.1)
    size = exact[1].abs().max().item() if exact[1].numel() else 0.0
    atol = max(of_largest * size, 3e-8 if case.x.dtype == torch.float16 else 0.0)
    torch.testing.assert_close(gradient.double(), exact[1], rtol=rtol, atol=atol)


def test_what_is_masked_or_ignored_gets_no_gradient(interpreted: dict[str, Any]) -> None:
    for classes in (9, 20_000):
        for kind in ("", ", shares", ", teacher"):
            assert interpreted[f"masked {classes}{kind}"][1][:, 5:].abs().max() == 0
    for name in ("all ignored", "no pixel"):
        value, gradient = interpreted[name]
        assert value == 0
        assert gradient.abs().max() == 0
    assert interpreted["empty nan"].isnan()


def test_a_layout_in_memory_is_kept(interpreted: dict[str, Any]) -> None:
    for name in ("rows last", "images last"):
        assert interpreted[name][1].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kind", ["rows", "images"])
def test_a_nan_or_a_label_that_is_no_class_is_seen(kind: str, interpreted: dict[str, Any]) -> None:
    assert interpreted[f"{kind} nan"].isnan()
    assert interpreted[f"{kind} wrong"].isnan()


@pytest.mark.parametrize("kind", ["rows", "images"])
def test_gradients_can_be_taken_again_and_of_gradients(kind: str, interpreted: dict[str, Any]) -> None:
    first, *later = interpreted[f"{kind} again"]
    for gradient in later:
        torch.testing.assert_close(gradient, first, rtol=1e-6, atol=1e-9)
    shape = (6, 9) if kind == "rows" else (2, 5, 4, 6)
    x, t = gpu_loss_worker._batch(shape)
    x = x.double().requires_grad_()
    loss = losses.cross_entropy if kind == "rows" else losses.dice_loss
    (gradient,) = torch.autograd.grad(loss(x, t, backend="torch"), x, create_graph=True)
    torch.testing.assert_close(2 * gradient.detach(), first.double(), rtol=1e-5, atol=1e-7)
    exact = torch.autograd.grad(gradient.square().sum(), x)[0]
    found = interpreted[f"{kind} twice"].double()
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-5 * exact.abs().max().item())


def test_every_kernel_compiles_and_single_precision_stays_single(compiled: dict[str, Any]) -> None:
    for case in COMPILED:
        for capability in CAPABILITIES:
            found = [
                text for name, text in compiled.items() if name.startswith(f"{case}:") and f"sm_{capability}" in name
            ]
            assert found, (case, capability)
            assert all(f".target sm_{capability}" in text for text in found)
    doubles = {name for name, text in compiled.items() if ".f64" in text}
    assert doubles == {name for name in compiled if "float64" in name}
    assert not any("atom." in text or "red.global" in text for text in compiled.values())  # sums have one order


@pytest.mark.parametrize(
    ("case", "kernel"),
    [("rows of two tiles", "rows"), ("rows apart of two tiles", "rows"), ("rows short, each", "rows")],
)
def test_lines_that_begin_at_multiples_are_read_and_written_together(
    case: str, kernel: str, compiled: dict[str, Any]
) -> None:
    # 20,000 classes and 60 positions are multiples of 16 and 4: four numbers at a time; 7 classes are not.
    text = next(text for name, text in compiled.items() if name.startswith(f"{case}: {kernel} "))
    wide = [bool(re.search(rf"{operation}\.global[\w.:]*\.v4\.b32", text)) for operation in ("ld", "st")]
    assert all(wide) == (case != "rows short, each")


@pytest.mark.parametrize(
    "shape", [(1, 1), (5, 3), (7, 16_384), (2, 16_385), (2, 100, 5), (3, 600, 40), (2, 21, 64, 64), (4, 1, 9)]
)
@pytest.mark.parametrize("by_image", [False, True])
def test_tiles_cover_every_row_once(shape: tuple[int, ...], by_image: bool) -> None:
    x = torch.empty(shape)
    tile = rows_gpu.layout(x, by_image=by_image)
    images = x.numel() // shape[1] // tile.inner
    assert images * tile.inner * shape[1] == x.numel()
    assert (tile.pieces - 1) * tile.rows < tile.inner <= tile.pieces * tile.rows
    assert tile.whole == (tile.cols >= shape[1])
    assert tile.rows * tile.cols <= rows_gpu.LARGEST
    stride = tile.inner if tile.apart else shape[1]
    assert stride % tile.align == 0
    assert tile.sizes == ((shape[1], stride // tile.align) if tile.apart else (shape[1] // tile.align, tile.inner))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", CASES)
def test_a_gpu_gives_the_exact_value_and_gradient(name: str) -> None:
    case: Case = CASES[name]
    keywords = {k: v.cuda() if isinstance(v, torch.Tensor) else v for k, v in case.loss.keywords.items()}  # type: ignore[attr-defined]
    there = case._replace(loss=partial(case.loss.func, **keywords))  # type: ignore[attr-defined]
    x = torch.where(case.x.isnan(), 0, case.x)
    value, gradient = gpu_loss_worker.evaluated(there, "triton", case.x.cuda())
    exact = gpu_loss_worker.evaluated(case, "torch", x.double().contiguous())
    precise = {torch.float16: 2.0**-10, torch.bfloat16: 2.0**-8, torch.float32: 2e-6, torch.float64: 1e-12}[x.dtype]
    torch.testing.assert_close(value.double().cpu(), exact[0], rtol=min(precise, 2e-6), atol=1e-6)
    size = exact[1].abs().max().item() if exact[1].numel() else 0.0
    torch.testing.assert_close(gradient.double().cpu(), exact[1], rtol=precise * 5, atol=precise * size)


def test_triton_by_name_raises_where_there_is_no_gpu() -> None:
    x, t = torch.zeros(2, 3), torch.tensor([0, 1])
    for loss in (losses.cross_entropy, losses.dice_loss):
        with pytest.raises(BackendError, match="'triton' cannot compute this loss: it computes no cpu tensors"):
            loss(x, t, backend="triton")
