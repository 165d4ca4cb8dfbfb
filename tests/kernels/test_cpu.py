"""Calling kernels: flags that keep arithmetic honest, threads, forks, and what is said about compiling."""

from __future__ import annotations

import ast
import logging
import os
import threading
from types import SimpleNamespace
from typing import Any

import numba
import numpy as np
import pytest
import torch

from trivet.kernels import cpu, multi_tensor
from trivet.kernels.xp import reference as xp


def kahan(total: Any, x: Any, lost: Any) -> Any:
    y = x - lost
    t = total + y
    return t, (t - total) - y


def repair(p: Any, g: Any) -> Any:
    finite = xp.where(p - p == 0, p, 2 * g)
    return xp.where(p != p, g, finite)


def _run(rule: Any, *columns: torch.Tensor, grad: torch.Tensor, times: int = 1) -> None:
    table = multi_tensor.Table(rule, [[column] for column in columns])
    for _ in range(times):
        table.run([grad], np.ones((1, 1)))


@pytest.fixture
def flags(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets other fast-math flags for kernels that are compiled in this test."""

    def use(text: str) -> None:
        monkeypatch.setattr(cpu, "FLAGS", text)
        multi_tensor._kernel.cache_clear()

    yield use
    multi_tensor._kernel.cache_clear()


def _kahan_sum() -> float:
    total, lost = torch.ones(16), torch.zeros(16)
    _run(kahan, total, lost, grad=torch.full((16,), 2.0**-26), times=1024)
    return float(total[0])


def test_a_compensated_sum_survives_the_flags(flags: Any) -> None:
    assert _kahan_sum() == 1 + 2.0**-16
    flags('{"contract", "nsz", "arcp", "reassoc"}')
    assert _kahan_sum() == 1.0, "reassociation no longer deletes the correction: this test has lost its meaning"


def _repaired() -> list[float]:
    p = torch.tensor([1.0, float("nan"), float("inf"), float("-inf")] * 8)
    _run(repair, p, grad=torch.full((32,), 7.0))
    return p[:4].tolist()


def test_nan_and_infinity_keep_their_meaning(flags: Any) -> None:
    assert _repaired() == [1.0, 7.0, 14.0, 14.0]
    flags('{"contract", "nsz", "arcp", "nnan", "ninf"}')
    assert _repaired() != [1.0, 7.0, 14.0, 14.0], "this test has lost its meaning"


def test_the_flags_are_these_three() -> None:
    assert ast.literal_eval(cpu.FLAGS) == {"contract", "nsz", "arcp"}


def test_a_call_leaves_numbas_number_of_threads_as_it_was() -> None:
    before = numba.get_num_threads()
    workers = min(2, numba.config.NUMBA_NUM_THREADS)

    class Kernel:
        signatures = (1,)

        def __call__(self) -> int:
            return int(numba.get_num_threads())

    assert cpu.call(Kernel(), workers=workers) == workers
    assert numba.get_num_threads() == before


def test_one_kernel_at_a_time_is_in_the_thread_pool() -> None:
    inside, most = 0, 0
    gate = threading.Barrier(3)

    class Kernel:
        signatures = (1,)

        def __call__(self) -> None:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            threading.Event().wait(0.01)
            inside -= 1

    def work() -> None:
        gate.wait()
        cpu.call(Kernel(), workers=2)

    if numba.config.NUMBA_NUM_THREADS == 1:
        pytest.skip("this machine has one core: no kernel enters the pool")
    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(10)
    assert most == 1


@pytest.mark.parametrize(
    ("seconds", "misses", "said"), [(1.5, {"s": 1}, True), (1.5, {}, False), (0.5, {"s": 1}, False)]
)
def test_compiling_for_over_a_second_is_said_once(
    seconds: float,
    misses: dict[str, int],
    said: bool,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Kernel:
        signatures: tuple[int, ...] = ()
        stats = SimpleNamespace(cache_misses=misses)

        def __call__(self, x: int) -> int:
            self.signatures = (1,)
            return x + 1

    kernel = Kernel()
    clock = iter([0.0, seconds])
    monkeypatch.setattr(cpu.time, "perf_counter", lambda: next(clock))  # type: ignore[attr-defined]
    with caplog.at_level(logging.WARNING, logger="trivet.kernels"):
        assert cpu.call(kernel, 1) == 2
        assert cpu.call(kernel, 2) == 3
    assert len(caplog.records) == int(said)
    if said:
        assert "compiled a kernel in 1.5 s" in caplog.text


def test_a_fork_knows_that_it_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not cpu.forked()
    own = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: own + 1)
    assert cpu.forked()
