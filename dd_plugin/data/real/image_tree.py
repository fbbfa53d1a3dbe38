"""The images below a folder, as a tree of the folders that hold any.

Used by `class_folders`, which says which folders are splits and classes. Nothing is opened.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from PIL import Image

from dd_plugin.data.real.columns import DataError
from dd_plugin.data.real.image_folders import DESCRIPTIONS

# Formats that Pillow registers and cannot read without help: data files and films.
_NO_PICTURES: Final = {"BUFR", "GRIB", "HDF5", "MPEG"}
# Kinds of pictures that Pillow reads with a plugin, if at all.
_FOREIGN: Final = {
    ".heic", ".heif", ".avif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".dcm",
}  # fmt: skip


@dataclass
class Folder:
    """A folder: its images, and the folders below it that hold any.

    ``foreign`` is an image here or below that Pillow cannot read.
    """

    path: str
    images: list[str] = field(default_factory=list)
    foreign: str | None = None
    folders: dict[str, Folder] = field(default_factory=dict)

    def all_images(self) -> list[str]:
        """Return the paths of the images here and below, in the order of `ImageFolder`."""
        paths = []
        waiting = [self]
        holders = []
        while waiting:
            holder = waiting.pop()
            holders.append(holder)
            waiting.extend(holder.folders.values())
        for holder in sorted(holders, key=lambda each: each.path):
            paths += [f"{holder.path}{os.sep}{name}" for name in sorted(holder.images)]
        return paths


class DescribedError(Exception):
    """A table beside the images says what they are."""


def _suffixes() -> frozenset[str]:
    """Return the suffixes of images, in small letters."""
    Image.init()
    known = Image.registered_extensions().items()
    readable = set(Image.OPEN) - _NO_PICTURES
    return frozenset(suffix for suffix, kind in known if kind in readable)


def walk(
    path: str, parents: tuple[tuple[int, int], ...], suffixes: frozenset[str] | None = None
) -> Folder | None:
    """Return a folder with all that holds images below it; None where there are none."""
    suffixes = suffixes or _suffixes()
    status = Path(path).stat()
    identity = (status.st_dev, status.st_ino)
    if identity in parents:
        return None
    folder = Folder(path)
    inside = []
    with os.scandir(path) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith("."):
                continue
            if _is_folder(entry):
                inside.append(name)
            elif name[name.rfind(".") :].lower() in suffixes:
                folder.images.append(name)
            elif name[name.rfind(".") :].lower() in _FOREIGN:
                folder.foreign = entry.path
            elif name in DESCRIPTIONS:
                raise DescribedError
            elif entry.is_symlink() and "." not in name and not Path(entry.path).exists():
                target = Path(entry.path).readlink()
                raise DataError(
                    f"{entry.path!r} is a link to '{target}', where nothing is; correct the link "
                    "or remove it"
                )
    for name in inside:
        below = walk(f"{path}{os.sep}{name}", (*parents, identity), suffixes)
        if below is not None:
            folder.folders[name] = below
            folder.foreign = folder.foreign or below.foreign
    return folder if folder.images or folder.folders or folder.foreign else None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
