"""The kinds of task; a new kind is one file here and one line below."""

from trivet.tasks.kinds.base import KINDS, Kind, kind_named
from trivet.tasks.kinds.classification import Binary, Multiclass
from trivet.tasks.kinds.regression import Regression

__all__ = ["KINDS", "Binary", "Kind", "Multiclass", "Regression", "kind_named"]

KINDS.update((kind.name, kind) for kind in (Regression(), Binary(), Multiclass()))
