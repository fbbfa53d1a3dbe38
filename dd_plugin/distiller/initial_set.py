"""The synthetic set as it is before the first outer step.

Used by `parts`, last of all: how many images there are, what they show at first, how they are
stored and in which order they stand follows from the settings and the real images.
"""

from __future__ import annotations

import logging
import math

import torch
from torch import Tensor

from dd_plugin.data import RealData, Recipe, SyntheticSet, Transform
from dd_plugin.data.colors import decorrelating_basis
from dd_plugin.data.parametrization import (
    Parametrization,
    Pixels,
    Pyramid,
    Upsampled,
    UpsampledPyramid,
)
from dd_plugin.distiller.config import DistillerConfig
from dd_plugin.distiller.first_images import first_images
from dd_plugin.distiller.networks import Networks
from dd_plugin.distiller.starting_set import StartingSet

logger = logging.getLogger(__name__)


def make_initial_set(
    config: DistillerConfig,
    recipe: Recipe,
    train: RealData,
    *,
    transform: Transform,
    constants: dict[str, Tensor],
    networks: Networks | None = None,
    start: StartingSet | None = None,
    device: torch.device,
    dtype: torch.dtype,
) -> SyntheticSet:
    """Make the synthetic set that a run begins with.

    Args:
        config: of the run.
        recipe: by which networks are trained on the set.
        train: the real images.
        transform: from pixels to what a network takes.
        constants: what is learned beside images, labels and step sizes, by name.
        networks: those of the first architecture; None for heads.
        start: the set that the run starts from, if any.
        device: where the set lives.
        dtype: of everything that is learned.
    """
    images, labels = first_images(config, recipe, train, transform=transform, networks=networks)
    if start is not None:
        here, there = start.rows(list(recipe.class_names), labels)
        images = images.to(dtype)
        images[here.to(images.device)] = start.synthetic.images().detach()[there].to(images)
    images, labels = images.to(device, dtype), labels.to(device)
    # With the same strides however they were made: the rounding of convolutions depends on them,
    # and a resumed run makes them in another way.
    images = images.clone(memory_format=torch.contiguous_format)
    # Sorted by class so far; a group takes its share of every class.
    per_class = config.trained_per_class
    place = torch.arange(len(labels), device=device) % per_class
    order = torch.argsort(place * recipe.groups // per_class, stable=True)
    step_sizes = _step_sizes(config, recipe).to(device, dtype)
    learns_constants = config.trainable == "head" or config.learns_statistics
    if start is not None:
        step_sizes = start.step_sizes(config, recipe, step_sizes)
        constants = start.constants(config, constants)
    synthetic = SyntheticSet(
        recipe,
        _parametrization(config, images[order], train),
        labels[order],
        step_sizes,
        transform=transform,
        soft_labels=config.label_form if config.soft_labels else False,
        learn_step_sizes=config.step_sizes != "constant" and recipe.head != "ridge",
        learn_constants=learns_constants,
        constants={name: t.to(device, dtype) for name, t in constants.items()},
    )
    if start is not None:
        start.take_over(synthetic, config)
    return synthetic


def _step_sizes(config: DistillerConfig, recipe: Recipe) -> Tensor:
    """Return the initial step sizes: of shape (), (steps,) or (steps, parameters), in float64.

    With a cosine the step size of step k of n is that of usual training, ``inner_lr`` times
    (1 + cos(pi k / n)) / 2, which is not 0 in the last step.
    """
    if recipe.head == "ridge":
        return torch.tensor(config.inner_lr, dtype=torch.float64)
    sizes = torch.full((recipe.steps,), config.inner_lr, dtype=torch.float64)
    is_cosine = config.inner_schedule == "cosine"
    if is_cosine:
        turned = torch.arange(recipe.steps, dtype=torch.float64) / recipe.steps
        sizes = sizes * (1 + (math.pi * turned).cos()) / 2
    if recipe.step_size_parameters is not None:
        return sizes[:, None].repeat(1, len(recipe.step_size_parameters))
    return sizes if is_cosine or config.step_sizes == "per_step" else sizes[0]


def _parametrization(config: DistillerConfig, images: Tensor, train: RealData) -> Parametrization:
    """The parametrization that the settings name, starting at images."""
    if config.parametrization == "upsampled":
        return Upsampled(images, config.upsample_factor)
    if config.parametrization == "pixels":
        return Pixels(images)
    basis = None
    if config.color_space == "decorrelated":
        if images.shape[1] == 1:
            logger.warning('color_space="decorrelated" has no effect on images of one channel')
        else:
            basis = decorrelating_basis(train)
    if config.is_upsampled:
        return UpsampledPyramid(images, config.upsample_factor, config.pyramid_levels, basis)
    return Pyramid(images, config.pyramid_levels, basis)
