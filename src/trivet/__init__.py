"""trivet chooses, proves, runs, watches and explains a training recipe: loss, optimizer, learning rate."""

from __future__ import annotations

__version__ = "0.1.0"
