"""What pytest must not import where a part's own library is absent (the core alone has no Triton)."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("triton") else ["src/trivet/kernels/*gpu*", "src/trivet/kernels/xp/gpu.py"]
