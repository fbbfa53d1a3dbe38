"""What is trained on and with: real images, synthetic images, and what happens to both on the way.

Real data is found by `loading` and goes through `columns` (what a data set holds), `sources` and
`pixels` (its images) and `rows` or `streams` into `RealData`, from which the trainer draws;
`digits` makes the data set that is always there. A `Transform` maps pixels in [0, 1] to what a
network is fed.
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
