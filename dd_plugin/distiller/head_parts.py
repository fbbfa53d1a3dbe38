"""The parts of a run that trains heads of frozen networks: the course of a step, and its recipe.

Used by `parts` for ``trainable="head"``; `network_parts` is its counterpart for whole networks.
"""

from __future__ import annotations

import warnings

import torch

from dd_plugin.data import Recipe
from dd_plugin.data.real.rows import require_two_classes
from dd_plugin.distiller.by_data import plain
from dd_plugin.distiller.config import DistillerConfig
from dd_plugin.distiller.head_backbones import has_random_weights, normalize_as_data
from dd_plugin.distiller.head_course import HeadCourse
from dd_plugin.distiller.json_settings import dictionary
from dd_plugin.distiller.losses import Losses
from dd_plugin.distiller.objectives import GradientMatching
from dd_plugin.distiller.published_names import backbone_record, public_name
from dd_plugin.distiller.real_features import RealFeatures
from dd_plugin.distiller.real_images import RealImages, real_batch_size
from dd_plugin.distiller.setting_checks import NoEffectWarning
from dd_plugin.networks import Backbone
from dd_plugin.networks.head_solvers import head_of


def make_head_course(
    config: DistillerConfig, backbones: list[Backbone], real: RealImages, losses: Losses
) -> tuple[HeadCourse, Recipe]:
    """Make the course of a run for heads, and the recipe of their training.

    Raises:
        DataError: the images to evaluate on are all of one class.
        ValueError: the images that are distilled are.
    """
    _check_classes(real)
    if config.normalization == "data":
        normalize_as_data(backbones, real.train)
    _warn_of_unused_losses(config, losses)
    recipe = _recipe(config, backbones, real, losses)
    head = head_of(recipe, losses.inner, losses.outer, verify=config.verify)
    course = HeadCourse(
        backbones,
        RealFeatures(config, real.train, real.evaluation),
        head,
        GradientMatching() if config.objective == "gradient_matching" else head,
        seed=config.seed,
        real_batch_size=real_batch_size(config, real.train),
        batch_size=config.backbone_batch_size,
    )
    return course, recipe


def _check_classes(real: RealImages) -> None:
    if real.train.num_classes < 2:
        raise ValueError(
            f"the real images must be of at least 2 classes, got {real.train.num_classes}: a head "
            "has nothing to tell apart; choose another label column or data set"
        )
    evaluation = real.evaluation
    if evaluation is not None and (counts := evaluation.class_counts()) is not None:
        require_two_classes(torch.tensor(counts), evaluation.class_names)


def _recipe(
    config: DistillerConfig, backbones: list[Backbone], real: RealImages, losses: Losses
) -> Recipe:
    unrolled = config.head == "unroll"
    recipe = Recipe(
        shape=real.train.shape,
        class_names=tuple(real.train.class_names),
        steps=plain(config.inner_steps) if unrolled else 1,
        optimizer=config.inner_optimizer,
        optimizer_args=dictionary(config.inner_optimizer_args, "inner_optimizer_args"),
        augmentation=config.augmentation,
        augmentations_per_step=config.augmentations_per_step,
        model=public_name(backbones[0]),
        model_args={"pretrained": False} if has_random_weights(config, backbones) else {},
        loss="custom" if losses.custom_inner and unrolled else "cross_entropy",
        mixed_precision=config.mixed_precision,
        trainable="head",
        head=config.head,
        head_copies=config.head_copies,
        backbones=tuple(map(backbone_record, backbones)),
    )
    # What cannot be read back later is told now.
    return Recipe.from_dict(recipe.to_dict())


def _warn_of_unused_losses(config: DistillerConfig, losses: Losses) -> None:
    # The level is that of `Distiller`.
    if losses.custom_inner and config.head == "ridge":
        warnings.warn(
            'your inner loss has no effect with head="ridge", which is ridge regression onto the '
            'labels; use head="unroll"',
            NoEffectWarning,
            stacklevel=4,
        )
    if losses.custom_outer and config.objective == "gradient_matching":
        warnings.warn(
            'your outer loss has no effect with objective="gradient_matching", which matches the '
            'gradients of cross entropy; use objective="bilevel"',
            NoEffectWarning,
            stacklevel=4,
        )
