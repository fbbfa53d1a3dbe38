"""A distilled set from a folder or the Hub, by whatever name the user has for it.

Above `reading` and `remote.download`; `DistilledDataset.from_pretrained` calls it.
"""

from __future__ import annotations

from pathlib import Path

from dd_plugin.hub.limits import Limits
from dd_plugin.hub.reading import StoredSet, read_set
from dd_plugin.hub.remote.download import download_set


def open_set(
    name: str | Path,
    limits: Limits,
    *,
    revision: str | None,
    token: str | bool | None,
    cache_dir: str | Path | None,
    local_files_only: bool,
) -> tuple[StoredSet, Path]:
    """Return a set and its folder; see `DistilledDataset.from_pretrained`."""
    folder = _folder_called(name)
    if folder is None:
        folder = download_set(
            str(name),
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            max_bytes=limits.max_bytes,
        )
    return read_set(folder, limits=limits), folder


def _folder_called(name: str | Path) -> Path | None:
    """Return the folder of a name, or None where there is none."""
    try:
        folder = Path(name).expanduser()
        return folder if folder.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # too long, no such home, or with a zero in it
        return None
