"""The parts of a run that trains whole networks: the networks, their recipe and their input.

Used by `parts` for ``trainable="all"``; `head_parts` is its counterpart for heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from dd_plugin.bilevel.tracing.way import Compile
from dd_plugin.data import Normalization, RealData, Recipe, Transform, Whitening
from dd_plugin.distiller.architectures import (
    Architectures,
    chosen_networks,
)
from dd_plugin.distiller.by_data import plain
from dd_plugin.distiller.config import DistillerConfig
from dd_plugin.distiller.json_settings import dictionary
from dd_plugin.distiller.losses import Losses
from dd_plugin.distiller.published_names import network_record
from dd_plugin.networks.fresh import ModelInit


def give_problems(
    config: DistillerConfig,
    architectures: Architectures,
    model_init: ModelInit | Sequence[ModelInit] | None,
    train: RealData,
    *,
    losses: Losses,
    device: torch.device,
) -> Recipe:
    """Give the networks of a run their bilevel problems, and return the recipe of their training.

    Raises:
        ValueError: model, data and settings do not fit together.
    """
    recipe = _recipe(config, architectures, train, model_init, custom_loss=losses.custom_inner)
    for networks in architectures.members:
        networks.problem(
            recipe.make_optimizer(),
            inner_loss=losses.inner,
            outer_loss=losses.outer,
            compile=compile_at_first(config, model_init, losses),
            channels_last=config.memory_format == "channels_last",
            autocast=recipe.autocast,
            verify=config.verify,
        )
    if config.step_sizes == "per_layer":
        parameters = architectures.problems[0].model.parameters
        recipe = replace(recipe, step_size_parameters=tuple(parameters))
    return recipe


def choose_transform(
    config: DistillerConfig, architectures: Architectures, train: RealData
) -> Transform:
    """Return the map from pixels to the networks' input that `normalization` names."""
    if config.normalization == "zca":
        return Whitening.fit(train)
    if config.normalization == "none":
        return Normalization([0.0] * train.shape[0], [1.0] * train.shape[0])
    of_networks = None
    if config.normalization == "auto":
        of_networks = _normalization_of_networks(config, architectures, train)
    return of_networks or Normalization.from_data(train)


def _normalization_of_networks(
    config: DistillerConfig, architectures: Architectures, train: RealData
) -> Normalization | None:
    """The normalization that the networks name; None where they name none, or different ones."""
    first, *others = (
        Normalization.from_model(
            networks.new_model(config.seed), channels=train.shape[0], fetch=True
        )
        for networks in architectures.members
    )
    if first is None or any(o is None or o.metadata() != first.metadata() for o in others):
        return None
    return first


def _recipe(
    config: DistillerConfig,
    architectures: Architectures,
    train: RealData,
    model_init: ModelInit | Sequence[ModelInit] | None,
    *,
    custom_loss: bool,
) -> Recipe:
    records = tuple(
        network_record(model, arguments)
        for model, arguments in chosen_networks(config, model_init, train)
    )
    is_pool = architectures.mode == "pool"
    recipe = Recipe(
        shape=train.shape,
        class_names=tuple(train.class_names),
        steps=config.pool_max_steps if is_pool else plain(config.inner_steps),
        batching=plain(config.batching),
        groups=plain(config.groups) if config.batching == "groups" else 1,
        batch_size=plain(config.batch_size) if config.batching == "minibatches" else None,
        optimizer=config.inner_optimizer,
        optimizer_args=dictionary(config.inner_optimizer_args, "inner_optimizer_args"),
        augmentation=config.augmentation,
        augmentations_per_step=config.augmentations_per_step,
        init=architectures.mode,
        statistics=architectures.statistics,
        train_with=config.train_with,
        model=records[0].model,
        model_args=records[0].model_args,
        networks=records if len(records) > 1 else (),
        loss="custom" if custom_loss else "cross_entropy",
        mixed_precision=config.mixed_precision,
    )
    # What cannot be read back later is told now.
    return Recipe.from_dict(recipe.to_dict())


def compile_at_first(
    config: DistillerConfig,
    model_init: ModelInit | Sequence[ModelInit] | None,
    losses: Losses,
) -> Compile:
    """Return how inner steps are run at the beginning: of code that is not ours, from Python."""
    modes: dict[str, Compile] = {"no": False, "trace": "trace", "inductor": True}
    is_own_code = losses.any_custom or model_init is not None
    return modes.get(config.compile, False if is_own_code else "trace")
