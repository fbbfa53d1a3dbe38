"""The distilled set in a checkpoint of a run: its record and tensors, in the folder ``set``.

Beside `opening`. The trainer writes it with every checkpoint, `dd-plugin export` makes other forms
of it.
"""

from __future__ import annotations

from pathlib import Path

from dd_plugin.hub.dataset import DistilledDataset
from dd_plugin.hub.folder import CORE, write_whole_from
from dd_plugin.hub.limits import DistilledFormatError, Limits
from dd_plugin.hub.reading import RECORD, TENSORS, read_set


def is_checkpoint(folder: Path) -> bool:
    """Return whether a folder is a checkpoint of a run."""
    return (folder / "state.json").is_file() and not (folder / RECORD).exists()


def open_checkpoint(folder: Path, limits: Limits) -> DistilledDataset:
    """Return the set as it was at a checkpoint.

    Raises:
        DistilledFormatError: there is none, or it is damaged or too large.
    """
    stored = read_set(_core_of(folder), limits=limits, names=(TENSORS,))
    return DistilledDataset(stored, folder)


def export_checkpoint(folder: Path, target: Path, limits: Limits) -> int:
    """Write the set of a checkpoint as an ordinary distilled set.

    Args:
        folder: the checkpoint.
        target: new or empty.
        limits: how large its parts may be.

    Returns:
        The number of images.

    Raises:
        DistilledFormatError: the checkpoint has no set, or a damaged or too large one.
        ValueError: the target holds something.
        OSError: it cannot be written.
    """
    return write_whole_from(_core_of(folder), target, limits)


def _core_of(checkpoint: Path) -> Path:
    core = checkpoint / CORE
    if not core.is_dir():
        raise DistilledFormatError(
            f"{str(checkpoint)!r} is a checkpoint of an earlier version, without the record of its "
            "set; resume the run from it, which writes one"
        )
    return core
