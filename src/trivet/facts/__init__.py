"""Facts: what is measured on the data and on the model before anything is chosen."""

from __future__ import annotations

from trivet.facts.profile import Profile, profile

__all__ = ["Profile", "profile"]
