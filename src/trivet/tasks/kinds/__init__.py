"""The kinds of task; a new kind is one file here and one line below."""

from trivet.tasks.kinds.base import KINDS, Answers, Context, Inputs, Kind, Known, kind_named
from trivet.tasks.kinds.classification import Binary, Multiclass
from trivet.tasks.kinds.counts import Counts
from trivet.tasks.kinds.embedding import Embedding
from trivet.tasks.kinds.language import Language
from trivet.tasks.kinds.multilabel import Multilabel
from trivet.tasks.kinds.regression import Regression
from trivet.tasks.kinds.segmentation import Segmentation
from trivet.tasks.kinds.views import flat_matrix

__all__ = [
    "KINDS",
    "Answers",
    "Binary",
    "Context",
    "Counts",
    "Embedding",
    "Inputs",
    "Kind",
    "Known",
    "Language",
    "Multiclass",
    "Multilabel",
    "Regression",
    "Segmentation",
    "flat_matrix",
    "kind_named",
]

_ALL = (Regression(), Counts(), Binary(), Multiclass(), Multilabel(), Segmentation(), Language(), Embedding())
KINDS.update((kind.name, kind) for kind in _ALL)
