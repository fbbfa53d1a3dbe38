"""Networks: from their names, frozen with their features, and the heads that are trained on these.

Above `dd_plugin.data` and below `dd_plugin.evaluation`. `names` leads to `timm_models` and
`hub_models`, and `fresh` makes new networks from a seed. `backbones` makes a `frozen.Backbone` of a
pretrained model, with `module_features`, `classifier` and what is known of each library.
`features` computes and keeps its features; `heads` and `head_solvers` train heads on them.
"""

from dd_plugin.networks.backbones import load_backbone
from dd_plugin.networks.errors import BackboneError, BackboneWarning
from dd_plugin.networks.features import Features, features_of
from dd_plugin.networks.frozen import Backbone
from dd_plugin.networks.head_solvers import RidgeHead, UnrolledHead
from dd_plugin.networks.heads import Head, HeadGradient, LinearHead, Objective

__all__ = [
    "Backbone",
    "BackboneError",
    "BackboneWarning",
    "Features",
    "Head",
    "HeadGradient",
    "LinearHead",
    "Objective",
    "RidgeHead",
    "UnrolledHead",
    "features_of",
    "load_backbone",
]
