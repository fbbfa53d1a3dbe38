"""Images sorted into one folder per class: which files there are, and of which class each is.

Used by `loading`; `image_tree` lists the files. A class is a folder, and all images below it belong
to it, however deep. That is the rule of torchvision's `ImageFolder`, with the same order of classes
and files. Names never decide about a file, unlike in `datasets`, which takes ``cat/train_4.png``
for another split than ``cat/1.png``. Only the folders at the top may be splits, ``train`` and
``test`` say, if they hold class folders.

These differences from `ImageFolder` are meant. A folder without images is no class instead of an
error. Hidden files (``.name``) are left out. Any format that Pillow reads counts as an image. It
is an error if an image lies beside the class folders, if Pillow cannot read one (``.heic``), or if
a link leads nowhere; `ImageFolder` ignores all three. A link that leads back into its own parents
is not followed; `ImageFolder` reads the same files forty times.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from dd_plugin.data.real.columns import DataError, MissingSplitError
from dd_plugin.data.real.image_folders import has_configurations, split_of
from dd_plugin.data.real.image_tree import DescribedError, Folder, walk
from dd_plugin.text import first_line

_HUB_SHARD: Final = re.compile(r"-\d{5}-of-\d{5}")


class LabeledFiles(Sequence[tuple[str, int]]):
    """Paths and class indices, as a sequence of pairs; nothing is opened.

    Attributes:
        classes: names of the classes 0, 1, 2, ...
    """

    def __init__(self, paths: list[str], labels: list[int], classes: list[str]) -> None:
        self.paths = paths
        self.labels = labels
        self.classes = classes

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: Any) -> Any:
        return self.paths[row], self.labels[row]

    def to_stream(self) -> Any:
        """Return the same as a `datasets.IterableDataset`, in the same order."""
        from datasets import ClassLabel, Dataset, Features
        from datasets import Image as ImageFeature

        features = Features(image=ImageFeature(), label=ClassLabel(names=self.classes))
        columns = {"image": self.paths, "label": self.labels}
        return Dataset.from_dict(columns, features=features).to_iterable_dataset()


Splits = dict[str, LabeledFiles | DataError]


def find_class_folders(folder: Path) -> Splits | None:
    """Return the images of each split of a folder.

    Args:
        folder: class folders, or split folders that hold them.

    Returns:
        Split to files, all being ``"train"`` without split folders, or to the error of the split,
        if an image in it would have no label. A split whose images are in no class folders has no
        classes and no files. None where the images, if any, are in no folders or are described by
        a table, which is for `datasets` to read.

    Raises:
        DataError: the folder cannot be read, or it is unclear which folders are classes.
    """
    if _is_hub_layout(folder):
        return None
    try:
        root = walk(str(folder.absolute()), ())
    except DescribedError:
        return None
    except OSError as error:
        raise DataError(f"the folder {str(folder)!r} could not be read: {error}") from error
    if root is None or not root.folders:
        return None
    splits: Splits = {}
    for split, holders in _splits_of(_inner(root)).items():
        try:
            splits[split] = _files_of(holders)
        except DataError as error:  # which does not matter to those who want another split
            splits[split] = error
    return splits


def take_split(splits: Splits, split: str | None, name: str) -> LabeledFiles:
    """Return the files of one split, or of a slice or sum of splits as `datasets` writes them.

    Args:
        splits: what `find_class_folders` gives.
        split: such as ``"train"`` or ``"train[:1000]"``; may be left out if there is only one.
        name: of the folder, for messages.

    Raises:
        DataError: no split is named and there are several, the slice cannot be read, or the split
            cannot be used.
        MissingSplitError: there is no such split.
    """
    known = ", ".join(map(repr, splits))
    if split is None:
        if len(splits) > 1:
            raise DataError(f"`split` must say which part of the data set to take: {known}")
        split = next(iter(splits))
    split = str(split)
    missing = f"the folder {name!r} has no split {split!r}; there are {known}"
    usable = {each: files for each, files in splits.items() if isinstance(files, LabeledFiles)}
    parts: list[tuple[str, int, int]]
    if split in splits:
        parts = [(split, 0, len(usable.get(split, ())))]
    elif re.fullmatch(r"\w+", split):
        raise MissingSplitError(missing)
    else:
        parts = _slices(split, {each: len(usable.get(each, ())) for each in splits}, missing)
    for part, _, _ in parts:
        files = splits[part]
        if isinstance(files, DataError):
            raise files
        if not files.classes:
            raise MissingSplitError(
                f"the images of the split {part!r} of the folder {name!r} have no labels: they are "
                "not sorted into folders, one per class"
            )
        if "train" in usable:
            _check_common_classes(usable["train"].classes, part, files.classes)
    return _join([(usable[part], start, stop) for part, start, stop in parts])


def _slices(split: str, lengths: dict[str, int], missing: str) -> list[tuple[str, int, int]]:
    from datasets import ReadInstruction

    try:
        parts = ReadInstruction.from_spec(split).to_absolute(lengths)
    except (ValueError, AssertionError) as error:
        unknown = [word for word in re.findall(r"[A-Za-z_]\w*", split) if word not in lengths]
        if unknown:
            raise MissingSplitError(missing) from error
        raise DataError(f"`split` must be a split or a slice of one, got {split!r}") from error
    return [(str(part.splitname), part.from_, part.to) for part in parts]


def _join(parts: list[tuple[LabeledFiles, int, int]]) -> LabeledFiles:
    classes = sorted({name for files, _, _ in parts for name in files.classes})
    place = {name: index for index, name in enumerate(classes)}
    paths: list[str] = []
    labels: list[int] = []
    for files, start, stop in parts:
        paths += files.paths[start:stop]
        labels += [place[files.classes[label]] for label in files.labels[start:stop]]
    return LabeledFiles(paths, labels, classes)


def _is_hub_layout(folder: Path) -> bool:
    """Return whether a folder is laid out like data sets on the Hub, with or without images."""
    for table in [*folder.glob("*.parquet"), *folder.glob("data/*.parquet")]:
        if split_of(table.stem) or _HUB_SHARD.search(table.stem):
            return True
    return has_configurations(folder)


def _inner(folder: Folder, *, in_split: bool = False) -> Folder:
    """Return the folder that has the classes or splits, inside of those wrapped around it."""
    while len(folder.folders) == 1 and not folder.images:
        ((name, inside),) = folder.folders.items()
        if not inside.folders or (split_of(name) and not in_split):
            break
        folder = inside
    return folder


def _splits_of(root: Folder) -> dict[str, list[Folder]]:
    """Return, for each split, the folders that hold its classes."""
    named = {name: split for name in root.folders if (split := split_of(name))}
    # A split folder has classes in it. Images beside these are for `_files_of` to complain about.
    holding = [name for name in named if root.folders[name].folders]
    if len(named) < len(root.folders):
        # A class may be called ``train`` and have folders in it. But folders that have classes in
        # common are splits of them.
        seen: dict[str, set[str]] = {}
        for name in holding:
            holder = _inner(root.folders[name], in_split=True)
            seen.setdefault(named[name], set()).update(holder.folders)
        shared = [a & b for x, a in seen.items() for y, b in seen.items() if x < y]
        if not any(shared):
            return {"train": [root]}
        named = {name: named[name] for name in holding}
    elif not holding:
        if len(set(named.values())) < 2:
            return {"train": [root]}
        raise DataError(
            f"the data set has no labels: the folders {_listed(named)} are called like splits and "
            "have no class folders in them; sort the images of each into folders, one per class; "
            f"if these are the classes, move them into a folder {Path(root.path, 'train')}"
        )
    splits: dict[str, list[Folder]] = {}
    for split in ("train", "validation", "test"):
        holders = [root.folders[name] for name in sorted(named) if named[name] == split]
        if holders:
            splits[split] = holders
    return splits


def _files_of(holders: list[Folder]) -> LabeledFiles:
    """Return the files of all classes in some folders that are one split."""
    parts = []
    for outer in holders:
        holder = _inner(outer, in_split=True)
        if not holder.folders:
            return LabeledFiles([], [], [])  # of a split without labels
        if holder.foreign:
            raise DataError(
                f"{holder.foreign!r} is an image of a kind that Pillow cannot read here; convert "
                "such images to PNG or JPEG, or take them out of the folder"
            )
        if holder.images:
            raise DataError(
                f"'{Path(holder.path, min(holder.images))}' "
                + (f"and {len(holder.images) - 1} more lie" if holder.images[1:] else "lies")
                + f" beside the class folders {_listed(holder.folders)} and would have no label; "
                "sort the images into at least two folders, one per class, or take these out"
            )
        classes = sorted(holder.folders)
        _check_names(holder.path, classes)
        paths: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(classes):
            images = holder.folders[name].all_images()
            paths += images
            labels += [label] * len(images)
        parts.append(LabeledFiles(paths, labels, classes))
    return _join([(files, 0, len(files)) for files in parts])


def _check_names(path: str, classes: list[str]) -> None:
    for name in classes:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"the name of the folder {str(Path(path, name))!r} is not valid text "
                f"({first_line(error)}); rename it, it is to be the name of a class"
            ) from error


def _check_common_classes(train: list[str], split: str, names: list[str]) -> None:
    """Refuse splits without a common class, whose labels would be matched by their order."""
    if train and set(train).isdisjoint(names):
        raise DataError(
            f"the splits 'train' ({_listed(train)}) and {split!r} ({_listed(names)}) have no class "
            "folder in common; give the folders of a class the same name in each split"
        )


def _listed(names: Any) -> str:
    names = sorted(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
