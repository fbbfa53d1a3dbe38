"""Data: real images, synthetic images, and what happens to both on the way to a network.

In `real`, `loading` gets a data set by its name, and `dataset.RealData` is what the trainer draws
from. `digits` makes the data set that is always there. A `Transform` maps pixels in [0, 1] to the
input of a network. A name is imported when it is first used: the bounds of settings, in
`recipe_values`, `augmentation_names` and `stored_sizes`, need no torch.
"""

from typing import TYPE_CHECKING

from dd_plugin.lazy import on_first_use

if TYPE_CHECKING:
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

# Public name -> the module that holds it.
_HOMES = {
    "DIGITS": "dd_plugin.data.real.loading",
    "Augmentation": "dd_plugin.data.augmentation",
    "BackboneRecord": "dd_plugin.data.network_records",
    "DataError": "dd_plugin.data.real.columns",
    "MissingSplitError": "dd_plugin.data.real.columns",
    "NetworkRecord": "dd_plugin.data.network_records",
    "Normalization": "dd_plugin.data.transforms",
    "RealData": "dd_plugin.data.real.dataset",
    "Recipe": "dd_plugin.data.recipe",
    "SyntheticSet": "dd_plugin.data.synthetic",
    "Transform": "dd_plugin.data.transforms",
    "Whitening": "dd_plugin.data.whitening",
    "load_digits": "dd_plugin.data.real.digits",
    "load_real": "dd_plugin.data.real.loading",
    "transform_from": "dd_plugin.data.transforms",
}

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

__getattr__, __dir__ = on_first_use(__name__, _HOMES)
