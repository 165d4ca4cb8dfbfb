"""The harness measures what it says: intervals, the order of contenders, memory."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from benchmarks.harness import Contender, compare, interval, peak_extra_bytes


def test_the_interval_of_a_median_covers_it_at_least_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    # Heavy tails: the interval must not lean on normality. The exact coverage at n = 21 is 0.973.
    hits = [found["low"] <= 0 <= found["high"] for found in (interval(rng.standard_cauchy(21)) for _ in range(2000))]
    assert 0.96 < np.mean(hits) < 0.985


def test_each_round_runs_every_contender_once_and_the_order_rotates() -> None:
    calls: list[str] = []
    made = {name: Contender(lambda: None, before=lambda name=name: calls.append(name)) for name in "abc"}
    case = compare(made, title="order", rounds=6, warmup=1, baseline="a")
    timed = calls[-18:]
    assert [timed[k : k + 3] for k in range(0, 18, 3)] == [list("abc"), list("bca"), list("cab")] * 2
    assert [row["name"] for row in case["contenders"]] == list("abc")
    assert "speedup" not in case["contenders"][0]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts a process's high-water mark")
def test_peak_memory_counts_every_allocator_and_only_what_is_new() -> None:
    x = torch.ones(5_000_000)
    size = x.numel() * 4
    near = pytest.approx(size, rel=0.15)
    assert peak_extra_bytes(lambda: x + 1) == near
    assert peak_extra_bytes(lambda: x.numpy() + 1) == near
    assert peak_extra_bytes(lambda: x.add_(1)) < 0.1 * size
