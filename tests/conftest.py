"""Shared by all tests: thread limits, seeds, and the real data sets that are at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

# With two pytest workers on two cores, two threads each would only fight; kernel tests set their own number.
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def real_data() -> Path:
    """The folder of real data sets beside the checkout; tests that need one are left out where it is absent."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real data sets are not beside this checkout")
    return folder
