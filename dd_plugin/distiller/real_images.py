"""The real images of a run: those that are distilled, and those that it is evaluated on.

Between the settings and `dd_plugin.data`, which reads them: here it is decided which data set and
which split each of the two is.
"""

from __future__ import annotations

import logging
import os
from typing import Any, NamedTuple

import torch

from dd_plugin.data import MissingSplitError, RealData, load_real
from dd_plugin.data.real.held_out import DEFAULT_FRACTION, HeldOut
from dd_plugin.distiller.by_data import is_left_alone
from dd_plugin.distiller.config import DistillerConfig

logger = logging.getLogger(__name__)

# What images that differ in size are brought to at most, if the user names no size: a step costs as
# many times more as they have more pixels. Pretrained networks are made for larger ones.
_LARGEST, _LARGEST_OF_HEADS = 64, 224


class RealImages(NamedTuple):
    """The real images of a run.

    Attributes:
        train: the images that are distilled.
        evaluation: the images that networks are tested on, or None.
        train_split: the split of ``train``, if it has a name.
        eval_split: the split of ``evaluation``, if it has a name.
    """

    train: RealData
    evaluation: RealData | None
    train_split: str | None
    eval_split: str | None


def read_real_images(
    config: DistillerConfig, train_dataset: Any, eval_dataset: Any, device: torch.device
) -> RealImages:
    """Read the images that are distilled, and those to evaluate on.

    Args:
        config: of the run.
        train_dataset: what `load_real` takes; ``config.dataset`` where it is None.
        eval_dataset: likewise; where it is None, another split of the same data set.
        device: where the images live.

    Raises:
        DataError: the data cannot be used.
        ValueError: the split to evaluate on is the one that is distilled.
    """
    options: dict[str, Any] = {
        # Backbones take three channels.
        **({"channels": 3} if config.trainable == "head" else {}),
        "image_column": config.image_column,
        "label_column": config.label_column,
        "image_size": config.image_size,
        "largest_size": _LARGEST_OF_HEADS if config.trainable == "head" else _LARGEST,
        "device": device,
        "seed": config.seed,
    }
    train_dataset, eval_dataset = map(_without_path_objects, (train_dataset, eval_dataset))
    source = config.dataset if train_dataset is None else train_dataset
    split = config.train_split
    if split is None and _has_splits(source):
        split = "train"
    train = load_real(source, split, **options)
    if train.sizes_differ:
        logger.warning("images differ in size: they are resized to %d x %d", *train.shape[1:])
    _leave_out_empty_classes(train)
    train.check_classes(config.images_per_class if train.in_memory else 1)
    options |= {
        "image_size": train.shape[1:],
        "channels": train.shape[0],
        "class_names": train.class_names,
        "white_level": train.white_level,
    }
    evaluation, eval_split = None, None
    if eval_dataset is not None:
        evaluation, eval_split = _read_evaluation(config, eval_dataset, None, options)
    elif _has_splits(source):
        evaluation, eval_split = _read_evaluation(config, source, split, options)
    if evaluation is None:
        train, evaluation = _hold_out(config, train, by_default=_has_splits(source))
    _say_batch_size(config, train)
    return RealImages(train, evaluation, split, eval_split)


def _hold_out(
    config: DistillerConfig, data: RealData, *, by_default: bool
) -> tuple[RealData, RealData | None]:
    """Return the images that are distilled, and those that are held out of them if any are."""
    fraction = config.validation_fraction
    if fraction is None:
        fraction = DEFAULT_FRACTION if by_default else 0
    if not fraction:
        return data, None
    rule = HeldOut(fraction, config.seed, keep=config.trained_per_class)
    parts = data.hold_out(rule)
    count = parts[1].count() if parts else 0
    if parts is None or not count:
        reason = "each class needs all of its images" if parts else "the data set is a stream"
        logger.warning("no images are held out to evaluate on: %s", reason)
        return data, None
    logger.warning(
        "no split to evaluate on: %d of the %d images are held out of training for that",
        count,
        len(data),
    )
    return parts


def real_batch_size(config: DistillerConfig, train: RealData) -> int:
    """Return the real images of an outer step: ``real_batch_size``, or all where that is more.

    More than all would show some of them twice in a step. Features that have copies are another
    matter, since a row that comes twice comes from two copies.
    """
    has_copies = config.trainable == "head" and config.feature_copies > 1
    count = None if has_copies else train.count()
    return config.real_batch_size if count is None else min(config.real_batch_size, count)


def _say_batch_size(config: DistillerConfig, train: RealData) -> None:
    if is_left_alone(config.real_batch_size):
        return
    if (size := real_batch_size(config, train)) < config.real_batch_size:
        logger.warning(
            "real_batch_size is %d, and there are %d real images: a step takes all of them once",
            config.real_batch_size,
            size,
        )


def _without_path_objects(dataset: Any) -> Any:
    return os.fspath(dataset) if isinstance(dataset, os.PathLike) else dataset


def _has_splits(source: Any) -> bool:
    """Whether a data set is one of names and splits, and not the images themselves."""
    return isinstance(source, (str, dict))


def _leave_out_empty_classes(train: RealData) -> None:
    empty = train.leave_out_empty_classes()
    if empty:
        more = f" and {len(empty) - 10} more" if len(empty) > 10 else ""
        logger.warning(
            "no training images of the classes %s%s: they are left out, and %d classes remain",
            ", ".join(empty[:10]),
            more,
            train.num_classes,
        )


def _read_evaluation(
    config: DistillerConfig, source: Any, distilled_split: str | None, options: dict[str, Any]
) -> tuple[RealData | None, str | None]:
    """Read the images to evaluate on.

    Args:
        config: of the run.
        source: the data set.
        distilled_split: the split of it that is distilled; None for a data set of its own, which
            must have images to evaluate on.
        options: of `load_real`.

    Returns:
        The images, or None where the data set has no other split; and the name of their split.
    """
    if not _has_splits(source):
        return load_real(source, **options), None
    split = config.eval_split
    if split is not None:
        if split == distilled_split:
            raise ValueError(
                f"`eval_split` must not be the split that is distilled, {split!r}: networks would "
                "be tested on what the images were learned from; name another, or a slice that "
                "`train_split` leaves out, such as train[55000:]"
            )
        return load_real(source, split, **options), split
    for name in ("validation", "test"):
        if name == distilled_split:
            continue
        try:
            return load_real(source, name, **options), name
        except MissingSplitError as error:
            missing = error
    if distilled_split is None:
        raise missing
    return None, None
