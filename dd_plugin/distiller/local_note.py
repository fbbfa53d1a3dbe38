"""A note in the folder of a run: where its real images are on this machine.

Written by `run_folder`, read by `dd-plugin evaluate` and `dd-plugin distill --resume`. The record
of a set is made to be published, so it names no folder of the user's. The note does, and it is not
among the files of a set: `push` and `save_pretrained` leave it out.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

NOTE = ".local.json"
_ABOUT = "Where the images of this run are on this machine. This file is never published."


@dataclass(frozen=True)
class LocalNote:
    """The paths of the real images of a run; None for what is no file or folder.

    Attributes:
        train: of the images that are distilled.
        test: of those that the set is evaluated on.
    """

    train: str | None = None
    test: str | None = None

    @classmethod
    def of(cls, train: Any, test: Any = None) -> LocalNote:
        """Return the note of a run.

        Args:
            train: its data set: the path of one, or anything else.
            test: another one to evaluate on; None if that is a split of the first.
        """
        place = _place_of(train)
        return cls(train=place, test=place if test is None else _place_of(test))

    @classmethod
    def in_folder(cls, folder: Path) -> LocalNote:
        """Return the note in a folder; an empty one if there is none that can be read."""
        try:
            values = json.loads((folder / NOTE).read_text("utf-8"))
            noted = {name: values.get(name) for name in ("train", "test", "folder")}
        except (OSError, ValueError, AttributeError, RecursionError):
            return cls()
        paths = {n: v for n, v in noted.items() if isinstance(v, str) and Path(v).is_absolute()}
        before = paths.pop("folder", None)
        return cls(**{name: _moved_along(path, before, folder) for name, path in paths.items()})

    def write(self, folder: Path) -> None:
        """Write the note into a folder, or remove the one that is there if this one is empty."""
        from dd_plugin.files import write_whole  # and torch

        try:
            if self == LocalNote():
                (folder / NOTE).unlink(missing_ok=True)
            else:
                values = {"about": _ABOUT, **asdict(self), "folder": str(folder.resolve())}
                write_whole(folder / NOTE, (json.dumps(values, indent=1) + "\n").encode())
        except OSError as error:
            # A run does not end for that: `--dataset` says the same.
            logger.warning("the place of the real images could not be noted: %s", error)


def _place_of(data: Any) -> str | None:
    if not isinstance(data, (str, os.PathLike)) or not os.fspath(data):
        return None
    path = Path(data).expanduser()
    return str(path.absolute()) if path.exists() and os.fspath(data) != "digits" else None


def _moved_along(path: str, before: str | None, folder: Path) -> str:
    """Return the path, or where it is now if it was moved together with the folder of the run."""
    if before is None or Path(path).exists():
        return path
    beside = folder.resolve() / os.path.relpath(path, before)
    return str(beside.resolve()) if beside.exists() else path
