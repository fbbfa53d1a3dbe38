"""Folders whose names `datasets` takes for other splits than are meant: which files are which.

Used by `loading`. `datasets` finds the splits of a folder by words in its paths, so that the images
of a class ``train`` or ``test tube`` become a split of their own, and those of ``test/train`` come
into the training data. Here the layout decides: folders of images are classes, folders of such
folders are splits. And it finds these words in small letters only: ``Train`` and ``Test`` together
would be the training data.
"""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path
from typing import Final

from PIL import Image

# The words that `datasets` goes by, and what it takes for the end of a word.
_WORDS: Final = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_END = "[-._ 0-9]"


def explicit_splits(folder: Path) -> dict[str, list[str]] | None:
    """The files of each split as patterns, where `datasets` would not sort them as they are meant.

    That is, where it would take the name of a class for a split's, or not know a split's name for
    its capital letters and so put test images into the training data.

    Args:
        folder: images sorted into classes, or such folders, one for each split; or Parquet files.

    Returns:
        Split to patterns, all files being ``"train"`` without folders for splits; None where
        names are not misleading, or the folder is of another kind.
    """
    inside = _folders(folder)
    splits = {name: split for name in inside if (split := _split_of(name))}
    if not inside:
        return _splits_of_tables(folder)
    if not splits:
        return explicit_splits(folder / inside[0]) if len(inside) == 1 else None
    if len(splits) < len(inside):
        if _are_classes(folder, inside):
            return {"train": [_all_in(folder)]}
        # Folders of images beside folders of classes are no splits.
        splits = {name: s for name, s in splits.items() if not _are_classes(folder, [name])}
        if all(map(_is_seen, splits)):
            return None
    # In the order of `datasets`, to which bare images of the first split then have no class.
    found: dict[str, list[str]] = {split: [] for split in _WORDS}
    doubtful = unseen = not all(map(_is_seen, splits))
    for name, split in splits.items():
        classes = _folders(folder / name)
        if not unseen and not _are_classes(folder / name, classes):
            return None
        doubtful |= any(map(_split_of, classes))
        found[split].append(_all_in(folder / name))
    return {split: files for split, files in found.items() if files} if doubtful else None


def holds_images(folder: Path) -> bool:
    """Whether there is an image in a folder, however deep."""
    images = Image.registered_extensions()
    return any(
        Path(file).suffix.lower() in images for _, _, files in os.walk(folder) for file in files
    )


def _splits_of_tables(folder: Path) -> dict[str, list[str]] | None:
    """The same of Parquet files without folders, such as ``Train.parquet``."""
    files = sorted(path for path in folder.glob("*.parquet") if not path.name.startswith("."))
    if all(map(_is_seen, (path.stem for path in files))):
        return None
    found: dict[str, list[str]] = {}
    for path in files:
        if split := _split_of(path.stem):
            found.setdefault(split, []).append(glob.escape(str(path.absolute())))
    return found


def _split_of(name: str, flags: re.RegexFlag = re.IGNORECASE) -> str | None:
    """The split that a folder or file is meant for, by its name."""
    for split, words in _WORDS.items():
        if re.search(rf"(?:^|{_END})(?:{'|'.join(words)})(?:$|{_END})", name, flags):
            return split
    return None


def _is_seen(name: str) -> bool:
    """Whether `datasets`, which minds capital letters, takes a name as it is meant."""
    return _split_of(name, re.NOFLAG) == _split_of(name)


def _folders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_dir()]
    return sorted(name for name in names if not name.startswith((".", "__")))


def _are_classes(folder: Path, names: list[str]) -> bool:
    """Whether all of these folders hold images themselves, and no table that describes them."""
    images = Image.registered_extensions()
    for name in names:
        with os.scandir(folder / name) as entries:
            files = [entry.name.lower() for entry in entries]
        if not any(Path(file).suffix in images for file in files):
            return False
        if any(file.startswith("metadata.") for file in files):
            return False
    return bool(names) and not list(folder.glob("metadata.*"))


def _all_in(folder: Path) -> str:
    return glob.escape(str(folder.absolute())) + "/**"
