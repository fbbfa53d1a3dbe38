"""From the settings to the parts of a run, each checked before any long work.

Between `config` and `distiller`. The parts come from `real_images` (the data), `network_parts` or
`head_parts` (what is trained on the synthetic images) and `initial_set` (the images themselves);
here they are put together, in the order in which each needs the others.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dd_plugin.bilevel import Adaptive, Full, Last, Random, Window
from dd_plugin.data import Normalization, RealData, Recipe, SyntheticSet, Transform
from dd_plugin.distiller.architectures import Architectures, make_architectures
from dd_plugin.distiller.by_data import is_left_alone, marked
from dd_plugin.distiller.config import DistillerConfig
from dd_plugin.distiller.defaults import Amounts, chosen_settings, default_arguments
from dd_plugin.distiller.head_backbones import load_backbones
from dd_plugin.distiller.head_course import HeadCourse
from dd_plugin.distiller.head_parts import make_head_course
from dd_plugin.distiller.initial_set import make_initial_set
from dd_plugin.distiller.losses import Losses
from dd_plugin.distiller.multiply_adds import of_architectures, of_backbones
from dd_plugin.distiller.network_parts import choose_transform, compile_at_first, give_problems
from dd_plugin.distiller.real_images import RealImages, read_real_images
from dd_plugin.distiller.starting_set import StartingSet
from dd_plugin.networks.fresh import ModelInit


@dataclass
class Parts:
    """The data, the networks and the synthetic set of a run.

    Attributes:
        train: the real images that are distilled.
        evaluation: the real images to evaluate on, or None.
        transform: from pixels to what the networks take.
        networks: what is trained on the synthetic images.
        synthetic: the synthetic set, as it is at first.
        train_split: the split of ``train``, if it has a name.
        eval_split: the split of ``evaluation``, if it has a name.
    """

    train: RealData
    evaluation: RealData | None
    transform: Transform
    networks: Architectures | HeadCourse
    synthetic: SyntheticSet
    train_split: str | None
    eval_split: str | None


def make_parts(
    config: DistillerConfig,
    model_init: ModelInit | Sequence[ModelInit] | None,
    train_dataset: Any,
    eval_dataset: Any,
    *,
    losses: Losses,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Parts, DistillerConfig]:
    """Read the data, make the networks and the synthetic set, and check that they fit.

    Args:
        config: of the run.
        model_init: see `Distiller`.
        train_dataset: see `Distiller`.
        eval_dataset: see `Distiller`.
        losses: of the run.
        device: where networks and images live.
        dtype: of weights and images.

    Returns:
        The parts, and the settings with those that the data decide; see `defaults`.

    Raises:
        DataError: the data cannot be used.
        ValueError: model, data and settings do not fit together.
    """
    networks: Architectures | HeadCourse
    recipe: Recipe
    start = StartingSet.of(config)
    if config.trainable == "head":
        # Before the data, which may take minutes to read.
        backbones = load_backbones(config, model_init, device, dtype)
        real = _real_images(config, train_dataset, eval_dataset, device=device, start=start)
        count = of_backbones(backbones, real.train.shape)
        config = _with_defaults(config, real, count, len(backbones), device)
        networks, recipe = make_head_course(config, backbones, real, losses)
        # Each backbone has its own normalization; what is augmented are pixels.
        channels = real.train.shape[0]
        transform: Transform = Normalization([0.0] * channels, [1.0] * channels)
    else:
        real = _real_images(config, train_dataset, eval_dataset, device=device, start=start)
        networks = make_architectures(config, model_init, real.train, device=device, dtype=dtype)
        count = of_architectures(networks, real.train.shape)
        is_traced = compile_at_first(config, model_init, losses) is not False
        config = _with_defaults(
            config, real, count, len(networks.members), device, is_traced=is_traced
        )
        recipe = give_problems(
            config, networks, model_init, real.train, losses=losses, device=device
        )
        transform = choose_transform(config, networks, real.train)
    if start is not None:
        transform = start.transform(config, transform)
    transform = transform.to(device)
    synthetic = make_initial_set(
        config,
        recipe,
        real.train,
        transform=transform,
        constants=networks.constants(),
        networks=networks.members[0] if isinstance(networks, Architectures) else None,
        start=start,
        device=device,
        dtype=dtype,
    )
    parts = Parts(
        train=real.train,
        evaluation=real.evaluation,
        transform=transform,
        networks=networks,
        synthetic=synthetic,
        train_split=real.train_split,
        eval_split=real.eval_split,
    )
    return parts, config


def _real_images(
    config: DistillerConfig,
    train_dataset: Any,
    eval_dataset: Any,
    *,
    device: torch.device,
    start: StartingSet | None,
) -> RealImages:
    """Read the real images, and check that the set to start from goes with them."""
    real = read_real_images(config, train_dataset, eval_dataset, device)
    if start is not None:
        start.check(config, real.train)
    return real


def _with_defaults(
    config: DistillerConfig,
    real: RealImages,
    multiply_adds: float,
    networks: int,
    device: torch.device,
    *,
    is_traced: bool = True,
) -> DistillerConfig:
    """Return a copy of the settings, with those that were left alone as the data decide.

    The user's object stays as it is: it may serve other data too.
    """
    tested = 0 if real.evaluation is None else real.evaluation.count()
    amounts = Amounts(
        multiply_adds=multiply_adds,
        architectures=networks,
        classes=real.train.num_classes,
        images=real.train.count(),
        tested=tested,
        on_gpu=device.type != "cpu",
        is_traced=is_traced,
    )
    chosen = chosen_settings(config, amounts)
    if is_left_alone(config.model_args) and config.trainable == "all":
        # Those of the digits, which need not be what is distilled.
        arguments = default_arguments(real.train.shape, real.train.num_classes)
        chosen |= {} if arguments == config.model_args else {"model_args": marked(arguments)}
    config = copy.copy(config)
    vars(config).update(chosen)
    return config


def make_window(config: DistillerConfig) -> Window:
    """Return the window of differentiated steps that the settings name."""
    if config.window == "full":
        return Full()
    assert config.window_length is not None
    if config.window == "adaptive":
        return Adaptive(config.window_length)
    return (Last if config.window == "last" else Random)(config.window_length)
