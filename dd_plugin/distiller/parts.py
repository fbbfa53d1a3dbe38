"""From the settings to the parts of a run, each checked before any long work.

Between `config` and `distiller`. The parts come from `real_images` (the data), `network_parts` or
`head_parts` (what is trained on the synthetic images) and `initial_set` (the images themselves);
here they are put together, in the order in which each needs the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dd_plugin.bilevel import Full, Last, Random, Window
from dd_plugin.data import Normalization, RealData, Recipe, SyntheticSet, Transform
from dd_plugin.distiller.architectures import Architectures
from dd_plugin.distiller.config import DistillerConfig
from dd_plugin.distiller.head_backbones import load_backbones
from dd_plugin.distiller.head_course import HeadCourse
from dd_plugin.distiller.head_parts import make_head_course
from dd_plugin.distiller.initial_set import make_initial_set
from dd_plugin.distiller.losses import Losses
from dd_plugin.distiller.network_parts import choose_transform, make_networks
from dd_plugin.distiller.real_images import read_real_images
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
) -> Parts:
    """Read the data, make the networks and the synthetic set, and check that they fit.

    Args:
        config: of the run.
        model_init: see `Distiller`.
        train_dataset: see `Distiller`.
        eval_dataset: see `Distiller`.
        losses: of the run.
        device: where networks and images live.
        dtype: of weights and images.

    Raises:
        DataError: the data cannot be used.
        ValueError: model, data and settings do not fit together.
    """
    networks: Architectures | HeadCourse
    recipe: Recipe
    if config.trainable == "head":
        # Before the data, which may take minutes to read.
        backbones = load_backbones(config, model_init, device, dtype)
        real = read_real_images(config, train_dataset, eval_dataset, device)
        networks, recipe = make_head_course(config, backbones, real, losses)
        # Each backbone has its own normalization; what is augmented are pixels.
        channels = real.train.shape[0]
        transform: Transform = Normalization([0.0] * channels, [1.0] * channels)
    else:
        real = read_real_images(config, train_dataset, eval_dataset, device)
        networks, recipe = make_networks(
            config, model_init, real.train, losses, device=device, dtype=dtype
        )
        transform = choose_transform(config, networks, real.train)
    transform = transform.to(device)
    synthetic = make_initial_set(
        config,
        recipe,
        real.train,
        transform=transform,
        constants=networks.constants(),
        device=device,
        dtype=dtype,
    )
    return Parts(
        train=real.train,
        evaluation=real.evaluation,
        transform=transform,
        networks=networks,
        synthetic=synthetic,
        train_split=real.train_split,
        eval_split=real.eval_split,
    )


def make_window(config: DistillerConfig) -> Window:
    """Return the window of differentiated steps that the settings name."""
    if config.window == "full":
        return Full()
    assert config.window_length is not None
    return (Last if config.window == "last" else Random)(config.window_length)
