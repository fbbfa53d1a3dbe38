"""Honest evaluation: fresh networks trained on a distilled set, tested in eval mode.

After `networks`, before `hub` and `distiller`. `training` and `scores` train and test networks on a
synthetic set, `baselines` on real images by `ordinary` training; for the heads of frozen networks
`heads` does both, with `probe` and `coresets`. `difficulty` says how hard real images are, and
`label_controls` tells labels apart from images. `comparison` puts the accuracies side by side, and
`kept_baselines` keeps those of baselines.
"""

from dd_plugin.evaluation.coresets import (
    easiest,
    hardest,
    herding,
    k_center,
    nearest_to_centroid,
    random_rows,
)
from dd_plugin.evaluation.difficulty import el2n
from dd_plugin.evaluation.heads import HeadTest, probe_on, train_head
from dd_plugin.evaluation.ordinary import train_on_real
from dd_plugin.evaluation.preparation import InputBatches
from dd_plugin.evaluation.probe import Probe, ProbeWarning, accuracy_of_head, fit_probe
from dd_plugin.evaluation.scores import Scores, accuracy_of, network_seed, score
from dd_plugin.evaluation.training import OtherArchitectureWarning, train_by_recipe
from dd_plugin.networks.checks import DivergedError, DivergedWarning

__all__ = [
    "DivergedError",
    "DivergedWarning",
    "HeadTest",
    "InputBatches",
    "OtherArchitectureWarning",
    "Probe",
    "ProbeWarning",
    "Scores",
    "accuracy_of",
    "accuracy_of_head",
    "easiest",
    "el2n",
    "fit_probe",
    "hardest",
    "herding",
    "k_center",
    "nearest_to_centroid",
    "network_seed",
    "probe_on",
    "random_rows",
    "score",
    "train_by_recipe",
    "train_head",
    "train_on_real",
]
