"""The real images that networks of a distilled set are tested on, as these see them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dd_plugin.data import DataError, RealData, load_real
from dd_plugin.data.real.held_out import HeldOut
from dd_plugin.hub.record import Record


def real_images(
    record: Record, dataset: Any, split: str | None, device: torch.device | str
) -> RealData:
    """Return real images with the classes, channels and size of a set.

    Args:
        record: of the set.
        dataset: `RealData`, or what `load_real` takes; None for those of the record.
        split: None for that of the record. Where images were held out of the split that was
            distilled, these are None, and the name of that split stands for the others.
        device: where they are kept.

    Raises:
        DataError: they cannot be read, or do not fit.
        ValueError: the record does not say which data set.
    """
    recipe = record.recipe
    if isinstance(dataset, RealData):
        shape, class_names = dataset.shape, tuple(dataset.class_names)
        if (shape, class_names) != (recipe.shape, recipe.class_names):
            raise DataError(
                f"the real images are {shape} with classes {list(class_names)[:10]}, those of "
                f"this set {recipe.shape} with {list(recipe.class_names)[:10]}; give the "
                "data set itself, or make both alike"
            )
        return dataset
    source = record.protocol.dataset if dataset is None else dataset
    if source is None:
        raise ValueError(
            "`dataset` must be given: the record of this set does not say which real images it "
            "was evaluated on; name them (`--dataset` on the command line)"
        )
    rule, distilled_split = record.protocol.rule, record.source.train_split or "train"
    is_held_out = rule is not None and split is None
    if rule is not None and split in (None, distilled_split):
        split = distilled_split
    else:
        split, rule = split or record.protocol.split or "test", None
    channels, height, width = recipe.shape
    by_name = isinstance(source, (str, Path, dict))
    images = load_real(
        source,
        split if by_name else None,
        image_size=(height, width),
        channels=channels,
        class_names=list(recipe.class_names),
        device=device,
        white_level=record.source.white_level,
    )
    return images if rule is None else _part_of(images, rule, record, is_held_out)


def _part_of(images: RealData, rule: HeldOut, record: Record, is_held_out: bool) -> RealData:
    """Return the images that the run held out, or those that it distilled.

    Raises:
        DataError: these are not the images that the run had.
    """
    then = (record.source.images or 0) + (record.protocol.images or 0)
    parts = images.hold_out(rule)
    if parts is None or images.count() != then:
        raise DataError(
            f"the set was tested on images that its run held out of {then}, and this data set has "
            f"{images.count() or 'an unknown number'}; give the same data set, or a `split` to "
            "test on (`--split` on the command line)"
        )
    return parts[is_held_out]
