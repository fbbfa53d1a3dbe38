"""Data: real images, synthetic images, and what happens to both on the way to a network.

In `real`, `loading` gets a data set by its name, and `dataset.RealData` is what the trainer draws
from. `digits` makes the data set that is always there. A `Transform` maps pixels in [0, 1] to the
input of a network.
"""

from dd_plugin.data.augmentation import Augmentation
from dd_plugin.data.network_records import BackboneRecord, NetworkRecord
from dd_plugin.data.real.columns import DataError, MissingSplitError
from dd_plugin.data.real.dataset import RealData
from dd_plugin.data.real.digits import load_digits
from dd_plugin.data.real.loading import DIGITS, load_real
from dd_plugin.data.recipe import Recipe
from dd_plugin.data.synthetic import SyntheticSet
from dd_plugin.data.transforms import Normalization, Transform, transform_from
from dd_plugin.data.whitening import Whitening

__all__ = [
    "DIGITS",
    "Augmentation",
    "BackboneRecord",
    "DataError",
    "MissingSplitError",
    "NetworkRecord",
    "Normalization",
    "RealData",
    "Recipe",
    "SyntheticSet",
    "Transform",
    "Whitening",
    "load_digits",
    "load_real",
    "transform_from",
]
