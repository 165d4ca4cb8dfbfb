"""The table of a step: what it takes, how it is cut and shared, and what its kernel is made of."""

from __future__ import annotations

import ast
import gc
import itertools
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from numba import njit

from trivet.kernels import cpu, multi_tensor
from trivet.kernels.binding import parameters
from trivet.kernels.xp import reference as xp
from trivet.optim import adam, lion, sgd


def literals(p: Any, g: Any, lr: Any) -> Any:
    half = 0.5 * g * xp.where(g > 0, 1, -1)
    return p * 0.1 - lr * half


def many_states(p: Any, g: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, lr: Any) -> Any:
    return p - lr * g, a + g, b + g, c + g, d + a, e + b, f + e


RULES: dict[str, tuple[Any, int]] = {
    "literals": (literals, 2),
    "many": (many_states, 8),
    "plain": (sgd.plain, 2),
    "momentum": (sgd.momentum, 3),
    "nesterov": (sgd.nesterov, 3),
    "adam": (adam.adam, 4),
    "amsgrad": (adam.amsgrad, 5),
    "lion": (lion.lion, 3),
}


def step(p: Any, g: Any, lr: Any) -> Any:
    return p - lr * g


def _scalars(lr: float, tensors: int) -> Any:
    return np.array([[lr] * tensors, [1.0] * tensors])


# ---- what fits


def test_flat_tensors_of_known_types_fit() -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        assert multi_tensor.fits([torch.zeros(2, 3, dtype=dtype)] * 2)
    assert multi_tensor.fits([torch.zeros(2, 3, dtype=torch.bfloat16), torch.zeros(2, 3)])
    assert multi_tensor.fits([torch.zeros(3, 2).t(), torch.zeros(3, 2).t()])
    assert multi_tensor.fits([torch.zeros(())] * 2)
    assert multi_tensor.fits([torch.zeros(0, 3)] * 2)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (torch.zeros(2, 3), torch.zeros(3, 2).t()),
        (torch.zeros(2, 3), torch.zeros(6)),
        (torch.zeros(8)[::2], torch.zeros(8)[::2]),
        (torch.zeros(1).expand(4), torch.zeros(1).expand(4)),
        (torch.zeros(3, dtype=torch.int64), torch.zeros(3)),
        (torch.zeros(3, dtype=torch.complex64), torch.zeros(3)),
        (torch.zeros(3, device="meta"), torch.zeros(3, device="meta")),
        (torch._neg_view(torch.zeros(3)), torch.zeros(3)),
        (torch.zeros(3).to_sparse(), torch.zeros(3)),
    ],
    ids=["strides", "shapes", "holes", "expanded", "integers", "complex", "device", "negated", "sparse"],
)
def test_what_is_no_flat_memory_of_a_known_type_does_not_fit(first: torch.Tensor, second: torch.Tensor) -> None:
    assert not multi_tensor.fits([first, second])


def test_overlapping_finds_all_that_share_memory_and_none_that_only_touch() -> None:
    base = torch.zeros(100)
    apart = [[base[:10], torch.zeros(10)], [base[10:20], torch.zeros(10)], [torch.zeros(0), base[50:50]]]
    assert multi_tensor.overlapping(apart) == set()
    inside = [[base[0:90]], [base[5:6]], [base[60:70]], [base[90:]], [torch.zeros(3)]]
    assert multi_tensor.overlapping(inside) == {0, 1, 2}
    state = torch.zeros(5)
    assert multi_tensor.overlapping([[torch.zeros(5), state], [torch.zeros(5), state]]) == {0, 1}
    assert multi_tensor.overlapping([[state, state]]) == {0}


# ---- the table


def test_chunks_cover_every_element_once() -> None:
    sizes = [0, 1, multi_tensor.CHUNK - 1, multi_tensor.CHUNK, multi_tensor.CHUNK + 1, 3 * multi_tensor.CHUNK + 5, 0]
    seen = [np.zeros(size, dtype=int) for size in sizes]
    for tensor, offset, size in multi_tensor.cut(sizes):
        assert 0 < size <= multi_tensor.CHUNK
        seen[tensor][offset : offset + size] += 1
    assert all((counts == 1).all() for counts in seen)
    assert multi_tensor.cut([]).shape == multi_tensor.cut([0]).shape == (0, 3)


def test_threads_get_shares_that_differ_by_a_chunk_at_most() -> None:
    table = multi_tensor.Table(step, [[torch.zeros(size) for size in (7, 200_000, 3, 90_000, 1, 500_000)]])
    work = table.chunks[:, 2] + multi_tensor.START
    for workers in (2, 3, 5):
        bounds = table._shares(workers)
        assert bounds[0] == 0
        assert bounds[-1] == len(table.chunks)
        loads = [work[a:b].sum() for a, b in itertools.pairwise(bounds)]
        assert sum(loads) == work.sum()
        assert max(loads) - min(loads) <= 2 * (multi_tensor.CHUNK + multi_tensor.START)


def test_each_tensor_has_its_own_numbers_and_neighbours_are_left_alone() -> None:
    guarded = [torch.full((n + 2,), 5.0) for n in (1, 70_000, 3)]
    tensors = [t[1:-1] for t in guarded]
    table = multi_tensor.Table(step, [tensors])
    table.run([torch.ones_like(t) for t in tensors], np.array([[1.0, 2.0, 3.0], [1.0, 1.0, -1.0]]))
    for tensor, value in zip(tensors, (4.0, 3.0, 8.0), strict=True):
        assert tensor.unique().tolist() == [value]
    assert all(t[0] == t[-1] == 5.0 for t in guarded)


def test_a_table_keeps_its_tensors_alive() -> None:
    tensor = torch.zeros(1000)
    alive = weakref.ref(tensor)
    table = multi_tensor.Table(step, [[tensor]])
    del tensor
    gc.collect()
    assert alive() is not None
    table.run([torch.ones(1000)], _scalars(1.0, 1))
    assert table.columns[0][0].unique().tolist() == [-1.0]


def test_a_table_sees_that_memory_has_moved() -> None:
    tensor = torch.zeros(4)
    table = multi_tensor.Table(step, [[tensor]])
    assert not table.moved()
    tensor.data = torch.zeros(4)
    assert table.moved()
    table = multi_tensor.Table(step, [[tensor]])
    tensor.data = tensor.data[:2]  # the address stays, the size does not
    assert table.moved()


def test_a_run_is_a_change_that_autograd_sees() -> None:
    tensor = torch.zeros(4)
    before = tensor._version
    multi_tensor.Table(step, [[tensor]]).run([torch.ones(4)], _scalars(1.0, 1))
    assert tensor._version == before + 1


def test_gradients_of_mixed_layouts_and_types_are_laid_out_as_their_parameters() -> None:
    own = [torch.zeros(2, 3), torch.zeros(3, 2).t()]
    table = multi_tensor.Table(step, [own])
    grads = [torch.arange(6.0).reshape(3, 2).t(), torch.arange(6.0, dtype=torch.float64).reshape(2, 3)]
    alike = table._alike(grads)
    for grad, laid, parameter in zip(grads, alike, own, strict=True):
        assert laid.stride() == parameter.stride()
        assert laid.dtype == parameter.dtype
        assert torch.equal(laid, grad.float())


def test_counts_advance_by_one_each_and_are_returned_in_order() -> None:
    steps = [torch.tensor(float(k)) for k in (0, 41, 7)]
    assert multi_tensor.advance(multi_tensor.addresses(steps)).tolist() == [1.0, 42.0, 8.0]
    assert [step.item() for step in steps] == [1.0, 42.0, 8.0]


# ---- the kernel


@pytest.mark.parametrize("name", RULES)
def test_a_single_precision_kernel_is_vector_code_and_holds_no_double(name: str) -> None:
    rule, tensors = RULES[name]
    kernel = multi_tensor._kernel(rule, (torch.float32,) * tensors)
    # What comes from the cache cannot be inspected, so the same function is compiled once more.
    fresh = njit(fastmath=ast.literal_eval(cpu.FLAGS), error_model="numpy", nogil=True)(kernel.rows.py_func)
    rows = len(parameters(rule)) + 8  # as many numbers as may be wanted: there are no tensors
    fresh(np.empty((0, 3), np.int64), np.empty((tensors, 0), np.int64), np.empty((rows, 0), np.float32), 0, 0)
    ((_, code),) = fresh.inspect_llvm().items()
    assert " double" not in code
    assert "vector.body" in code
