"""The kinds of task; a new kind is one file here and one line below."""

from trivet.tasks.kinds.base import KINDS, Answers, Context, Inputs, Kind, Known, kind_named
from trivet.tasks.kinds.classification import Binary, Multiclass
from trivet.tasks.kinds.counts import Counts
from trivet.tasks.kinds.multilabel import Multilabel
from trivet.tasks.kinds.regression import Regression
from trivet.tasks.kinds.views import flat_matrix

__all__ = [
    "KINDS",
    "Answers",
    "Binary",
    "Context",
    "Counts",
    "Inputs",
    "Kind",
    "Known",
    "Multiclass",
    "Multilabel",
    "Regression",
    "flat_matrix",
    "kind_named",
]

KINDS.update((kind.name, kind) for kind in (Regression(), Counts(), Binary(), Multiclass(), Multilabel()))
