"""What the images of a set show before the first outer step, and their labels.

Used by `initial_set`, which stores them as the settings say: real images, at random or by a rule
that coresets are chosen by; class means; or noise.
"""

from __future__ import annotations

import logging
from typing import Final

import torch
from accelerate import PartialState
from accelerate.utils import broadcast
from torch import Tensor, nn

from dd_plugin.bn import revert_bn
from dd_plugin.data import RealData, Recipe, Transform
from dd_plugin.data.real.rows import require
from dd_plugin.data.synthetic import augmentation_of
from dd_plugin.distiller.config import DistillerConfig
from dd_plugin.distiller.networks import Networks
from dd_plugin.evaluation import difficulty
from dd_plugin.evaluation.preparation import InputBatches, prepared_by
from dd_plugin.evaluation.real_coresets import RealCoresets
from dd_plugin.evaluation.training_images import TrainingImages
from dd_plugin.seeds import Purpose, mix

logger = logging.getLogger(__name__)

# Values of `image_init` that choose real images by a rule.
_RULES: Final = {"herding": TrainingImages.HERDING, "easiest": TrainingImages.EASIEST}


def first_images(
    config: DistillerConfig,
    recipe: Recipe,
    train: RealData,
    *,
    transform: Transform,
    networks: Networks | None,
) -> tuple[Tensor, Tensor]:
    """Return the images that `image_init` names and their labels, sorted by class.

    A resumed run takes its images from the checkpoint: no rule is applied for it.

    Args:
        config: of the run.
        recipe: by which networks are trained on the set.
        train: the real images.
        transform: from pixels to what a network takes.
        networks: those of the first architecture, which say what is easy; None for heads.

    Raises:
        DataError: a class has fewer images.
        ValueError: the networks that were asked have diverged.
    """
    per_class, seed = config.trained_per_class, mix(config.seed, Purpose.INITIAL_IMAGES)
    rule = _RULES.get(config.image_init)
    if rule is not None and config.resume_from_checkpoint is None:
        return _by_rule(rule, config, recipe, train, transform=transform, networks=networks)
    if config.image_init == "real" or rule is not None:
        return train.of_each_class(per_class, seed)
    labels = torch.arange(recipe.num_classes).repeat_interleave(per_class)
    if config.image_init == "mean":
        return train.class_means(per_class), labels
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(len(labels), *recipe.shape, generator=generator), labels


def _by_rule(
    rule: TrainingImages,
    config: DistillerConfig,
    recipe: Recipe,
    train: RealData,
    *,
    transform: Transform,
    networks: Networks | None,
) -> tuple[Tensor, Tensor]:
    """Return the real images of a rule, which is asked about all of them.

    Of several processes the first chooses for all: what networks find easy differs by rounding on
    other processors and numbers of threads.
    """

    def of_all() -> Tensor:
        assert networks is not None
        logger.info("training %d networks to find the easiest images", difficulty.YOUNG_NETWORKS)
        inputs = InputBatches(train, transform, networks.dtype, config.per_device_eval_batch_size)
        prepare = prepared_by(transform, augmentation_of(recipe, transform), networks.dtype)

        def new_network(seed: int) -> nn.Module:
            return revert_bn(networks.new_model(seed))

        scores = difficulty.of_images(new_network, train, inputs, prepare, autocast=recipe.autocast)
        if difficulty.tells_nothing(scores):
            raise ValueError(
                "`image_init=easiest` asks networks that were trained for a while, but all of them "
                "have diverged; use `image_init=herding`, or another network"
            )
        return scores

    per_class = config.trained_per_class
    # Before long work.
    counts = torch.bincount(train.labels(), minlength=train.num_classes)
    require(counts, per_class, train.class_names)
    state = PartialState()
    if state.is_main_process:
        if rule is TrainingImages.HERDING:
            logger.info("choosing images by herding")
        images, labels = RealCoresets(train, of_all).images(rule, per_class)
    else:
        images, labels = train.of_each_class(per_class, config.seed)
    if state.num_processes > 1:
        images = torch.as_tensor(broadcast(images.to(state.device).contiguous(), from_process=0))
    return images, labels
