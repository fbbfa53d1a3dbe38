"""The accuracy of networks and heads that are trained on a distilled set.

After `training` and `real_images`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from dd_plugin.data import RealData
from dd_plugin.evaluation import (
    HeadTest,
    InputBatches,
    OtherArchitectureWarning,
    Scores,
    network_seed,
)
from dd_plugin.evaluation.ordinary import accuracy_of_module
from dd_plugin.hub.reading import StoredSet
from dd_plugin.hub.record import Record
from dd_plugin.hub.using.backbones import backbone_of
from dd_plugin.hub.using.choosing import protocol_for
from dd_plugin.hub.using.training import FitOptions, fit_network, head_for
from dd_plugin.networks import Backbone, features_of
from dd_plugin.networks.fresh import ModelInit
from dd_plugin.networks.head_solvers import head_of


def seeds_of(record: Record, networks: int, seed: int | None) -> list[int]:
    """Return the seeds of an evaluation's networks; without a seed those of the card, and more."""
    base = seed if seed is not None else record.about.config.seed or 0
    seeds = [network_seed(base, index) for index in range(networks)]
    if seed is None:
        recorded = record.distilled.seeds[:networks]
        seeds[: len(recorded)] = recorded
    return seeds


def network_scores(
    stored: StoredSet,
    model: ModelInit | None,
    *,
    seeds: Sequence[int],
    options: FitOptions,
    batches: InputBatches,
) -> Scores:
    """Return the accuracies of fresh networks that are trained on a set for whole networks.

    Args:
        stored: the set.
        model: the network.
        seeds: of the networks; the first alone where the initialization is fixed.
        options: how they are trained.
        batches: real images as network input.
    """
    protocol = protocol_for(stored.record.recipe, options.protocol, model)
    if stored.initial and protocol == "recipe":
        seeds = seeds[:1]
    accuracies: list[float] = []
    for seed in seeds:
        with warnings.catch_warnings():
            if accuracies:  # said once is enough
                warnings.simplefilter("ignore", OtherArchitectureWarning)
            network = fit_network(stored, model, seed, options)
        accuracies.append(accuracy_of_module(network, batches))
    return Scores(tuple(accuracies), seeds=tuple(seeds))


def head_test(
    stored: StoredSet,
    model: ModelInit | None,
    options: FitOptions,
    *,
    test: RealData,
    train: RealData | None,
    folder: Path | None,
    backbone: Backbone | None,
) -> HeadTest:
    """Return the test of heads on a backbone; see `DistilledDataset.head_test`."""
    recipe, device = stored.record.recipe, options.device
    as_probe = protocol_for(recipe, options.protocol, model) == "standard"
    head = head_of(recipe) if as_probe else head_for(recipe, options.loss)
    backbone = backbone_of(stored, model, device) if backbone is None else backbone.to(device)
    of_train = None if train is None else features_of(backbone, train, folder=folder)
    of_test = features_of(backbone, test, folder=folder)
    return HeadTest(backbone, head, of_train, of_test, as_probe=as_probe, images=train)
