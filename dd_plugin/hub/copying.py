"""A distilled set copied into another folder, byte for byte.

Beside `folder`, which writes a new set; `DistilledDataset.save_pretrained` calls it.
"""

from __future__ import annotations

from pathlib import Path

from dd_plugin.files import write_together
from dd_plugin.hub.folder import instead_of_the_set_in
from dd_plugin.hub.reading import RECORD
from dd_plugin.hub.remote.published import (
    PUBLISHED,
    UNPUBLISHED,
    check_replaceable,
    published_paths,
)


def copy_set(source: Path, target: Path) -> None:
    """Copy the files of a set, in the place of a set that is there.

    Args:
        source: folder of the set.
        target: another folder.

    Raises:
        OSError: it cannot be written; it is as it was then.
        PushError: a file of the set is missing, or is a link out of its folder.
        ValueError: both are the same folder, or the target has files of the same names that are
            not a set's.
    """
    if target.exists() and target.resolve() == source.resolve():
        raise ValueError(f"{str(target)!r} is where this set is already; choose another folder")
    files = published_paths(source)
    check_replaceable(target, "folder")
    # The record comes last, whose checksums tell a set from half of one.
    ordered = sorted(files, key=lambda name: name == RECORD)
    with instead_of_the_set_in(target):
        write_together(target, {name: files[name] for name in ordered})
        for name in (*PUBLISHED, *UNPUBLISHED):
            if "*" not in name and name not in files:  # of another set
                (target / name).unlink(missing_ok=True)
