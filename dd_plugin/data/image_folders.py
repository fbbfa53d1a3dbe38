"""Folders of images whose classes are called like splits: which files are which split after all.

Used by `loading`. `datasets` finds the splits of a folder by words in its paths, so that the images
of a class ``train`` or ``test tube`` become a split of their own, and those of ``test/train`` come
into the training data. Here the layout decides: folders of images are classes, folders of such
folders are splits.
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
    """The files of each split as patterns, where the name of a class would be taken for a split's.

    Args:
        folder: images sorted into classes, or such folders, one for each split.

    Returns:
        Split to patterns, all files being ``"train"`` without folders for splits; None where
        names are not misleading, or the folder is of another kind.
    """
    inside = _folders(folder)
    if not inside:
        return None
    misleading = [name for name in inside if _split_of(name)]
    if misleading and len(misleading) < len(inside):
        return {"train": [_all_in(folder)]} if _are_classes(folder, inside) else None
    found: dict[str, list[str]] = {}
    doubtful = False
    for name in misleading:
        classes = _folders(folder / name)
        if not _are_classes(folder / name, classes):
            return None
        doubtful |= any(map(_split_of, classes))
        found.setdefault(str(_split_of(name)), []).append(_all_in(folder / name))
    return found if doubtful else None


def _split_of(name: str) -> str | None:
    """The split that `datasets` takes a folder for."""
    for split, words in _WORDS.items():
        if re.search(rf"(?:^|{_END})(?:{'|'.join(words)})(?:$|{_END})", name):
            return split
    return None


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
    return glob.escape(str(folder)) + "/**"
