"""A kernel leaves the number of torch's threads alone."""

from __future__ import annotations

import subprocess
import sys

# Numba's pool starts once in a process, so that the first step must be seen in a process of its own.
CODE = """
import torch
torch.set_num_threads(1)
from trivet.optim import AdamW
weight = torch.nn.Parameter(torch.zeros(4))
weight.grad = torch.ones(4)
AdamW([weight], lr=0.1, backend="cpu").step()
print(torch.get_num_threads())
"""


def test_the_first_kernel_of_a_process_keeps_torchs_number_of_threads() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "1"
