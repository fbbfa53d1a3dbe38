"""The files of a distilled set that are published, and how to tell whether a copy is the same.

Before `push`, which sends these files and compares their checksums with the Hub's, and whatever
writes a set into a folder where the user may have files of these names.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dd_plugin.hub.links import leaves
from dd_plugin.hub.reading import RECORD
from dd_plugin.hub.remote.failures import PushError

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

CARD = "README.md"
_DATA = "data/train-*.parquet"
_REQUIRED = (CARD, _DATA, "tensors.safetensors", RECORD)
PUBLISHED = (*_REQUIRED, "preview.png", "results.md", "log.jsonl", "curve.png")
# Written beside them, and for the eyes of its user alone.
UNPUBLISHED = ("report.html", "course.webp")


@dataclass(frozen=True)
class LocalFile:
    """A file to publish, and its two checksums: a remote file has one of them."""

    source: Path | bytes
    size: int
    sha256: str
    git_oid: str

    @classmethod
    def of(cls, source: Path | bytes) -> LocalFile:
        """Return a file, or its content, read once."""
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size)
        if isinstance(source, bytes):
            sha256.update(source)
            git.update(source)
        else:
            with source.open("rb") as file:
                while chunk := file.read(1 << 20):
                    sha256.update(chunk)
                    git.update(chunk)
        return cls(source, size, sha256.hexdigest(), git.hexdigest())

    def is_at(self, remote: RepoFile | None) -> bool:
        """Return whether the Hub holds the same bytes: by SHA-256 in LFS, else as Git hashes."""
        if remote is None or remote.size != self.size:
            return False
        if remote.lfs is not None:
            return bool(remote.lfs.sha256 == self.sha256)
        return bool(remote.blob_id == self.git_oid)


def published_paths(folder: Path) -> dict[str, Path]:
    """Return the files of a distilled set, by path in the repository.

    Raises:
        PushError: one that there has to be is missing, or one is a link out of the folder.
    """
    matching = {p: sorted(folder.glob(p)) for p in PUBLISHED}
    for path in (path for matches in matching.values() for path in matches):
        name = path.relative_to(folder).as_posix()
        if leaves(folder, path):
            raise PushError(
                f"{name} in {folder} is a link to a file outside of that folder, "
                f"{str(path.resolve(strict=False))!r}, which is not published; put a copy in its "
                "place, or take it away"
            )
        if not path.is_file():
            raise PushError(f"{name} in {folder} must be a file; take it away")
    if missing := [pattern for pattern in _REQUIRED if not matching[pattern]]:
        raise PushError(
            f"{folder} must hold a distilled set, got no {', '.join(missing)}; use the folder "
            "that it was saved to"
        )
    paths = [path for matches in matching.values() for path in matches]
    return {path.relative_to(folder).as_posix(): path for path in paths}


def check_replaceable(folder: Path, argument: str) -> None:
    """Check that a set written into a folder replaces nothing but another set.

    Args:
        folder: that is to be written to; it need not be there.
        argument: what the user gave it as.

    Raises:
        ValueError: files of the user's would be replaced or deleted.
    """
    taken = sorted(
        path.relative_to(folder).as_posix()
        for name in (*PUBLISHED, *UNPUBLISHED)
        for path in folder.glob(name)
    )
    if taken and not _has_record(folder):
        raise ValueError(
            f"`{argument}` must have no files that a distilled set would replace, got "
            f"{str(folder)!r} with {', '.join(taken)}, and no set that they belong to; choose "
            "another folder, or move them away"
        )


def _has_record(folder: Path) -> bool:
    """Return whether a set of any version was written there; it may be damaged."""
    try:
        record = json.loads((folder / RECORD).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(record, dict) and {"schema_version", "files"} <= set(record)


def published_files(folder: Path) -> dict[str, LocalFile]:
    """Return the files of a distilled set with their checksums, by path in the repository.

    Raises:
        PushError: see `published_paths`.
    """
    files = {name: LocalFile.of(path) for name, path in published_paths(folder).items()}
    return {**files, CARD: LocalFile.of((folder / CARD).read_bytes())}
