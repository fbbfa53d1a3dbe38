"""Honest evaluation: fresh networks trained on a distilled set, tested in eval mode.

After `data` and `bilevel`, before `distiller` and `hub`. `scores` trains and tests on a synthetic
set, `baselines` gives what it has to be compared with: as many random real images, and the full
data.
"""

from dd_plugin.evaluation.baselines import train_on_real
from dd_plugin.evaluation.checks import DivergedError, DivergedWarning
from dd_plugin.evaluation.scores import InputBatches, Scores, accuracy_of, network_seed, score
from dd_plugin.evaluation.training import OtherArchitectureWarning, train_by_recipe

__all__ = [
    "DivergedError",
    "DivergedWarning",
    "InputBatches",
    "OtherArchitectureWarning",
    "Scores",
    "accuracy_of",
    "network_seed",
    "score",
    "train_by_recipe",
    "train_on_real",
]
