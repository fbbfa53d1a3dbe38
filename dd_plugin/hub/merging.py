"""Merging of distilled sets: all of their classes and images in one set.

After `folder`; `DistilledDataset.merge` calls it. Whatever says how networks are trained has to be
the same in all sets, and what was learned is kept: images and labels as they are, and step sizes
and statistics as their mean, weighted by the numbers of images. So it does not matter whether three
sets are merged at once or two by two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dd_plugin.choices import LabelForm
from dd_plugin.data.growing import grown_labels, in_words, same_transform
from dd_plugin.data.parametrization import Parametrization, Pixels, Upsampled
from dd_plugin.data.recipe import Recipe
from dd_plugin.data.synthetic import SyntheticSet
from dd_plugin.files import new_folder
from dd_plugin.hub.folder import write_set
from dd_plugin.hub.reading import StoredSet
from dd_plugin.hub.record import About, Settings, Source

_MOST_NAMES = 10
_BY_SET = ("class_names", "shape")  # which have messages of their own


class MergeError(ValueError):
    """Sets that do not go together; the message says in what, and what to do."""


def merge_sets(sets: Mapping[str, StoredSet], folder: Path, *, same_classes: bool = False) -> None:
    """Write a set that has the classes and images of several.

    Args:
        sets: by the name that messages give them.
        folder: new or empty.
        same_classes: classes of the same name in two sets are one class; else they are refused.

    Raises:
        MergeError: the sets do not go together.
        ValueError: the folder holds something.
        OSError: it cannot be written; then nothing is left of it.
    """
    if len(sets) < 2:
        raise MergeError(f"give two different sets or more to merge, got {len(sets)}")
    names = _class_names(sets, same_classes)
    _check(sets)
    synthetic = _merged(list(sets.values()), names)
    with new_folder(folder) as partial:
        write_set(
            partial,
            synthetic,
            initial=next(iter(sets.values())).initial,
            source=_source(list(sets.values()), apart=not same_classes),
            about=_about(list(sets.values())),
        )


def check_folders(folders: Sequence[Path]) -> None:
    """Check that no set is named twice, by whatever path.

    Raises:
        MergeError: one is, and its images would be in the merged set twice.
    """
    seen: set[Path] = set()
    for folder in folders:
        if folder.resolve() in seen:
            raise MergeError(f"each set can be merged once, got {folder} twice; name it once")
        seen.add(folder.resolve())


def _class_names(sets: Mapping[str, StoredSet], same_classes: bool) -> tuple[str, ...]:
    """Return all classes: those of the first set, then the new ones of each other set."""
    names: dict[str, str] = {}
    for label, stored in sets.items():
        own = stored.synthetic.recipe.class_names
        shared = [name for name in own if name in names]
        if shared and not same_classes:
            raise MergeError(
                f"{names[shared[0]]} and {label} both have {_listed(shared)} among their classes. "
                "If these are the same classes, give `same_classes`. If not, distill one of the "
                "sets again from images whose classes have other names"
            )
        by_case = {name.strip().casefold(): name for name in names if name not in own}
        for name in own:
            other = by_case.get(name.strip().casefold())
            if other is not None and name not in names:
                raise MergeError(
                    f"{names[other]} has the class {other!r} and {label} has {name!r}; give both "
                    "the same name, or names that differ by more than case and spaces"
                )
        names |= {name: label for name in own if name not in names}
    return tuple(names)


def _check(sets: Mapping[str, StoredSet]) -> None:
    """Compare every set with the first."""
    (first_label, first), *others = sets.items()
    for label, other in others:
        both = f"{first_label} and {label}"
        _check_images(first, other, both)
        one, two = first.synthetic.transform, other.synthetic.transform
        if not same_transform(one, two):
            raise MergeError(
                f"{both} normalize their images in two ways ({in_words(one)}; {in_words(two)}), "
                "and images mean something else by the other one. Distill both with "
                "`normalization=none`, or one of them again with `start_from` and real images of "
                "all classes, which keeps the normalization"
            )
        _check_recipes(first.synthetic.recipe, other.synthetic.recipe, both)
        shapes = [tuple(each.synthetic.step_sizes().shape) for each in (first, other)]
        if shapes[0] != shapes[1]:
            raise MergeError(
                f"{both} have step sizes of different shapes, {shapes[0]} and {shapes[1]}; distill "
                "one of them again with the `step_sizes` of the other"
            )
        _check_statistics(first.synthetic, other.synthetic, both)
        _check_starts(first, other, both)


def _check_images(first: StoredSet, other: StoredSet, both: str) -> None:
    one, two = first.synthetic, other.synthetic
    shapes = [each.recipe.shape for each in (one, two)]
    if shapes[0][0] != shapes[1][0]:
        raise MergeError(
            f"{both} have images of {shapes[0][0]} and {shapes[1][0]} channels; distill one of "
            "them again from images that are all gray, or all in color"
        )
    if shapes[0] != shapes[1]:
        sizes = [f"{height} x {width}" for _, height, width in shapes]
        raise MergeError(
            f"{both} have images of {sizes[0]} and {sizes[1]} pixels; distill one of them again "
            "with the `image_size` of the other"
        )
    factors = [each.parametrization.factor for each in (one, two)]
    if factors[0] != factors[1]:
        raise MergeError(
            f"{both} store their images {factors[0]} and {factors[1]} times smaller than they are; "
            "distill one of them again with the `parametrization` and `upsample_factor` of the "
            "other"
        )
    if one.label_form != two.label_form:
        forms = [each.label_form or "classes" for each in (one, two)]
        raise MergeError(
            f"{both} have other forms of labels, {forms[0]} and {forms[1]}; distill one of them "
            "again with the `soft_labels` and `label_form` of the other"
        )


def _check_recipes(one: Recipe, two: Recipe, both: str) -> None:
    first, other = one.to_dict(), two.to_dict()
    keys = [name for name in {**first, **other} if name not in _BY_SET]
    different = [name for name in keys if first.get(name) != other.get(name)]
    if different:
        listed = "; ".join(
            f"{name}: {first.get(name)!r:.60} and {other.get(name)!r:.60}" for name in different
        )
        raise MergeError(
            f"{both} are trained on in two ways ({listed}); distill one of them again with the "
            "settings of the other"
        )


def _check_statistics(one: SyntheticSet, two: SyntheticSet, both: str) -> None:
    """Half of what one set has learned about BatchNorm would be right for neither."""
    if one.constants() and two.constants() and one.has_constants != two.has_constants:
        which = "first" if one.has_constants else "second"
        raise MergeError(
            f"of {both} only the {which} has learned corrections of BatchNorm's statistics; "
            "distill one of them again with the `statistics_corrections` of the other"
        )


def _check_starts(first: StoredSet, other: StoredSet, both: str) -> None:
    """Networks of a fixed initialization have a head for their own classes."""
    same = first.initial.keys() == other.initial.keys() and all(
        torch.equal(t, other.initial[name]) for name, t in first.initial.items()
    )
    classes = [each.synthetic.recipe.class_names for each in (first, other)]
    if first.initial.keys() | other.initial.keys() and not (same and classes[0] == classes[1]):
        raise MergeError(
            f"{both} are each for a network that starts from weights of its own; distill them with "
            "`init=random`, for fresh weights"
        )


def _merged(sets: Sequence[StoredSet], names: tuple[str, ...]) -> SyntheticSet:
    """Return the merged set; what the sets must have alike is alike."""
    parts = [stored.synthetic for stored in sets]
    first = parts[0]
    dtype = first.step_sizes().dtype
    places = [[names.index(name) for name in part.recipe.class_names] for part in parts]
    order = _order(parts)
    weights = [len(part.labels) for part in parts]
    pixels = torch.cat([part.parametrization.stored().detach().to(dtype) for part in parts])[order]
    factor = first.parametrization.factor
    images: Parametrization = Pixels(pixels) if factor == 1 else Upsampled.of_stored(pixels, factor)
    labels = torch.cat(
        [torch.tensor(p)[part.labels] for p, part in zip(places, parts, strict=True)]
    )[order]
    merged = SyntheticSet(
        Recipe.from_dict({**first.recipe.to_dict(), "class_names": list(names)}),
        images,
        labels,
        _mean([part.step_sizes().log() for part in parts], weights).exp().to(dtype),
        transform=first.transform,
        soft_labels=first.label_form or False,
        learn_step_sizes=any(stored.record.images.learned_step_sizes for stored in sets),
        constants={
            name: _mean([part.constants()[name] for part in parts], weights).to(value)
            for name, value in first.constants().items()
        },
    )
    if (form := first.label_form) is not None:
        merged.set_targets(_targets(parts, form, places, len(names)).to(dtype)[order])
    return merged


def _targets(
    parts: Sequence[SyntheticSet], form: LabelForm, places: Sequence[Sequence[int]], classes: int
) -> Tensor:
    return torch.cat(
        [
            grown_labels(part.targets().detach(), form, of_part, classes)
            for part, of_part in zip(parts, places, strict=True)
        ]
    )


def _order(parts: Sequence[SyntheticSet]) -> Tensor:
    """Return the order of all images: one set after the other, in each group of a recipe."""
    group = [
        torch.arange(len(part.labels)) * part.recipe.groups // len(part.labels) for part in parts
    ]
    return torch.argsort(torch.cat(group), stable=True)


def _mean(tensors: Sequence[Tensor], weights: Sequence[int]) -> Tensor:
    """Return the weighted mean of tensors, in float64."""
    total = sum(weights)
    weighted = [t.detach().double() * (w / total) for t, w in zip(tensors, weights, strict=True)]
    return torch.stack(weighted).sum(0)


def _source(sets: Sequence[StoredSet], *, apart: bool) -> Source:
    """Return what all sets have alike about their data; ``apart``: no image is in two of them."""
    sources = [stored.record.source for stored in sets]
    licenses = dict.fromkeys(one for source in sources for one in source.licenses)
    counts = [source.images for source in sources if source.images is not None]

    def shared(name: str) -> Any:
        values = [getattr(source, name) for source in sources]
        return values[0] if all(value == values[0] for value in values) else None

    return Source(
        dataset=shared("dataset"),
        hub_id=shared("hub_id"),
        train_split=shared("train_split"),
        images=sum(counts) if apart and len(counts) == len(sources) else None,
        # That of a part is not known to be that of the whole.
        licenses=tuple(licenses) if all(source.licenses for source in sources) else (),
        white_level=shared("white_level"),
    )


def _about(sets: Sequence[StoredSet]) -> About:
    """Return what all sets have alike about their making."""
    abouts = [stored.record.about for stored in sets]
    first, *others = (about.config.to_json() for about in abouts)
    config = {
        name: value
        for name, value in first.items()
        if all(name in other and other[name] == value for other in others)
    }
    versions = {
        name: version
        for name, version in abouts[0].versions.items()
        if all(about.versions.get(name) == version for about in abouts)
    }
    return About(
        config=Settings.from_json(config),
        network=abouts[0].network,
        versions=versions,
        merged=sum(about.merged or 1 for about in abouts),
        unfinished=any(about.unfinished for about in abouts) or None,
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(map(repr, names[:_MOST_NAMES])) + more
