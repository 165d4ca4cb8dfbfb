"""What pytest must not import where a part's own library is absent, and the name that every example may use."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

# The core alone has no Triton.
collect_ignore_glob = [] if find_spec("triton") else ["src/trivet/kernels/*gpu*", "src/trivet/kernels/xp/gpu.py"]
# A callback is a subclass of its tool's own.
collect_ignore_glob += [
    f"src/trivet/integrations/{tool}.py" for tool in ("lightning", "transformers") if not find_spec(tool)
]


@pytest.fixture(autouse=True)
def _torch(doctest_namespace: dict[str, object]) -> None:
    doctest_namespace["torch"] = torch
