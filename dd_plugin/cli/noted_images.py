"""The real images of a run that are in a folder of this machine, as its note remembers them.

Used by `evaluate` and `resumed`. The record of a set names no such folder.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from dd_plugin.cli.errors import CommandError
from dd_plugin.distiller.local_note import LocalNote


def noted_images(name: str, kind: Literal["train", "test"]) -> str | None:
    """Return where the real images of a run are.

    Args:
        name: folder of the run. There is no note of a set on the Hub.
        kind: those that were distilled, or those to evaluate on.

    Raises:
        CommandError: they are not there any more.
    """
    path: str | None = getattr(LocalNote.in_folder(Path(name)), kind)
    if path is not None and not Path(path).exists():
        raise CommandError(
            f"the real images of {name} were in {path}, which is not there any more; say where "
            "they are now with --dataset FOLDER"
        )
    return path


def note_images(name: str, dataset: str) -> None:
    """Remember where the images of a set are, unless that is known.

    Args:
        name: of the set; nothing is noted of one on the Hub.
        dataset: where they were found, which is noted if it is a folder.
    """
    folder = Path(name)
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return
    known = LocalNote.in_folder(folder)
    note = LocalNote.of(dataset)
    if note != LocalNote() and (known.test is None or not Path(known.test).exists()):
        note.write(folder)
