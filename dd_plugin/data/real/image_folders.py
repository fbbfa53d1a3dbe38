"""Folders that `datasets` reads, and whose splits it would not sort as they are meant.

Used by `loading` for what `class_folders` leaves: images that a table describes, and Parquet files.
`datasets` finds the splits of a folder by words in its paths. It looks for them in the names of
images too, so ``train_4.png`` would leave ``1.png`` unused. It looks for small letters only, so
``Train`` and ``Test`` together would be the training data. Here folders alone are splits.
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

# Tables in which `datasets` looks for labels of the images beside them.
DESCRIPTIONS: Final = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


def explicit_splits(folder: Path) -> dict[str, list[str]] | None:
    """Return the files of each split as patterns, where `datasets` would mistake the splits.

    Args:
        folder: of images with a table that describes them, or such folders, one for each split; or
            Parquet files.

    Returns:
        Split to patterns, all files being ``"train"`` without folders for splits; None where
        names are not misleading, or the folder is of another kind.
    """
    inside = _folders(folder)
    splits = {name: split for name in inside if (split := split_of(name))}
    configured = has_configurations(folder)
    described = [name for name in splits if not configured and _is_described(folder / name)]
    if not splits and not configured and _is_described(folder):
        return {"train": [_all_in(folder)]}
    if not inside:
        return _splits_of_tables(folder)
    if not splits:
        return explicit_splits(folder / inside[0]) if len(inside) == 1 else None
    if described != list(splits) and all(map(_is_seen, splits)):
        return None
    # In the order of `datasets`.
    patterns: dict[str, list[str]] = {split: [] for split in _WORDS}
    for name, split in splits.items():
        patterns[split].append(_all_in(folder / name))
    return {split: files for split, files in patterns.items() if files}


def holds_images(folder: Path) -> bool:
    """Return whether there is an image in a folder, however deep."""
    images = Image.registered_extensions()
    return any(
        Path(file).suffix.lower() in images for _, _, files in os.walk(folder) for file in files
    )


def has_configurations(folder: Path) -> bool:
    """Return whether a card says which files belong to which split, as on the Hub."""
    try:
        text = (folder / "README.md").read_text("utf-8", errors="replace")
    except OSError:
        return False
    metadata = re.match(r"\ufeff?---\r?\n(.*?)^---\s*$", text, re.DOTALL | re.MULTILINE)
    return bool(metadata and re.search(r"^configs:", metadata[1], re.MULTILINE))


def _is_described(folder: Path) -> bool:
    return any((folder / name).is_file() for name in DESCRIPTIONS)


def _splits_of_tables(folder: Path) -> dict[str, list[str]] | None:
    """Return `explicit_splits` of Parquet files without folders, such as ``Train.parquet``."""
    files = sorted(path for path in folder.glob("*.parquet") if not path.name.startswith("."))
    if all(map(_is_seen, (path.stem for path in files))):
        return None
    patterns: dict[str, list[str]] = {}
    for path in files:
        if split := split_of(path.stem):
            patterns.setdefault(split, []).append(glob.escape(str(path.absolute())))
    return patterns


def split_of(name: str, flags: re.RegexFlag = re.IGNORECASE) -> str | None:
    """Return the split that a folder or file is meant for, by its name."""
    for split, words in _WORDS.items():
        if re.search(rf"(?:^|{_END})(?:{'|'.join(words)})(?:$|{_END})", name, flags):
            return split
    return None


def _is_seen(name: str) -> bool:
    """Return whether `datasets`, which minds capital letters, takes a name as it is meant."""
    return split_of(name, re.NOFLAG) == split_of(name)


def _folders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_dir()]
    return sorted(name for name in names if not name.startswith((".", "__")))


def _all_in(folder: Path) -> str:
    return glob.escape(str(folder.absolute())) + "/**"
