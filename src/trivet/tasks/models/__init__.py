"""Small reference models in plain torch: what is trained when the user brings data and no model.

Each file imports torch and the standard library alone, so that an exported script can hold its whole text.
"""

from trivet.tasks.models.images import ResidualCNN
from trivet.tasks.models.sequences import RecurrentNet
from trivet.tasks.models.tabular import TabularMLP
from trivet.tasks.models.transformers import CausalTransformer, TextTransformer
from trivet.tasks.models.unet import UNet

__all__ = ["CausalTransformer", "RecurrentNet", "ResidualCNN", "TabularMLP", "TextTransformer", "UNet"]
