"""Links in the folder of a distilled set: those that lead out of it are not followed.

Below `published`. A folder from a stranger may hold a link to a private file, which a copy or a
push would publish. Links inside of the folder are harmless, and so are those of the Hub's cache,
where every file of a set is a link to the place where its content is kept.
"""

from __future__ import annotations

import re
from pathlib import Path

_SHARED = re.compile(r"[0-9a-f]{2}/[0-9a-f]{64}")


def leaves(folder: Path, path: Path) -> bool:
    """Return whether a file of a folder is, by a link, a file elsewhere.

    Args:
        folder: of the set.
        path: in it.
    """
    try:
        home, target = folder.resolve(), path.resolve()
    except (OSError, RuntimeError):  # links in a circle
        return True
    return not target.is_relative_to(home) and not _in_cache(home, target)


def _in_cache(folder: Path, target: Path) -> bool:
    """Return whether a file is one that the Hub's cache has for a snapshot."""
    if folder.parent.name != "snapshots":
        return False
    repository = folder.parent.parent
    if target.parent == repository / "blobs":
        return True
    shared = repository.parent / "blobs"  # among several repositories
    return target.is_relative_to(shared) and bool(
        _SHARED.fullmatch(target.relative_to(shared).as_posix())
    )


def files_behind(folder: Path, name: str) -> list[Path]:
    """Return a file of a snapshot in the Hub's cache, and the files that it links to."""
    paths = [folder / name]
    while paths[-1].is_symlink() and len(paths) < 10:
        paths.append(paths[-1].parent / paths[-1].readlink())
    return [path for path in paths if not leaves(folder, path)]
