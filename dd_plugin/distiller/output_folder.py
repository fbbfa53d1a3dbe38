"""The checks of the output folder: it can be written, and holds no other run.

Called by `distiller` and the command line before any work.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dd_plugin.distiller.checkpoint import find_checkpoint
from dd_plugin.distiller.config import DistillerConfig
from dd_plugin.distiller.folder_lock import check_not_in_use
from dd_plugin.distiller.saved_runs import checkpoints
from dd_plugin.files import partial_name
from dd_plugin.hub.reading import RECORD
from dd_plugin.hub.remote.published import check_replaceable


def check_output_dir(config: DistillerConfig, resumed: str | None = None) -> None:
    """Check that a run may write into its folder.

    Args:
        config: of the run.
        resumed: the checkpoint that it goes on from, or ``"latest"``; by default that of
            ``config``.

    Raises:
        FolderInUseError: another run is writing to it.
        ValueError: it holds another run, or files that a set would replace.
        OSError: it cannot be written.
    """
    folder = Path(config.output_dir)
    check_not_in_use(folder)
    check_apart(folder, config.dataset)
    taken = (folder / RECORD).exists() or bool(checkpoints(folder))
    if not taken:
        check_replaceable(folder, "output_dir")
    resumed = resumed or config.resume_from_checkpoint
    continues = resumed is not None and (resumed == "latest" or holds(folder, Path(resumed)))
    if taken and not (config.overwrite_output_dir or continues):
        raise ValueError(
            f"`output_dir` {config.output_dir!r} holds another run; choose another folder, "
            "continue that run with `resume_from_checkpoint=latest`, or give "
            "`overwrite_output_dir` to lose it"
        )
    start = config.start_from
    if start and not continues and os.path.realpath(start) == os.path.realpath(folder):
        raise ValueError(
            f"`output_dir` {config.output_dir!r} is the set of `start_from`, which would be "
            "replaced; choose another folder"
        )
    check_writable(folder)


def check_places(config: DistillerConfig, *datasets: Any, is_main: bool) -> None:
    """Check the folders and the checkpoint of a run, before its data are read.

    Args:
        config: of the run.
        datasets: where the real images are, as far as that is known; see `check_apart`.
        is_main: whether this is the process that writes.

    Raises:
        FolderInUseError: another run is writing to the output folder.
        ValueError: that folder is among the images, or there is no checkpoint to resume from.
        OSError: a folder cannot be written.
    """
    folder = Path(config.output_dir)
    for data in datasets:
        check_apart(folder, data)
    if config.resume_from_checkpoint is not None:
        find_checkpoint(folder, config.resume_from_checkpoint)
    if is_main:
        check_not_in_use(folder)
        check_writable(folder)
        if config.rescue_dir is not None:
            check_writable(Path(config.rescue_dir), "rescue_dir")


def holds(folder: Path, checkpoint: Path) -> bool:
    """Return whether a checkpoint lies in a folder, or is named by it."""
    path = checkpoint.resolve()
    return folder.resolve() in (path, *path.parents)


def check_apart(folder: Path, data: Any) -> None:
    """Check that a run does not write among its real images.

    Args:
        folder: the run's.
        data: where the real images are, if that is a folder; anything else is passed over.

    Raises:
        ValueError: the folder is that of the images, or in it.
    """
    if not isinstance(data, (str, os.PathLike)) or not Path(data).exists():
        return
    images, output = Path(data).resolve(), folder.resolve()
    if images == output or images in output.parents:
        where = "is" if images == output else "is inside of"
        raise ValueError(
            f"`output_dir` {str(folder)!r} {where} the folder of the real images, {str(data)!r}, "
            "where what is written would be read as real images; choose a folder beside it"
        )


def check_writable(folder: Path, argument: str = "output_dir") -> None:
    """Make a folder and write a file into it.

    Args:
        folder: to be made.
        argument: what the user gave it as.

    Raises:
        OSError: it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / partial_name("write-test")
        try:
            probe.write_bytes(b"x" * 4096)
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(
            f"`{argument}` {str(folder)!r} cannot be written ({error}); choose another folder or "
            "make room"
        ) from error
