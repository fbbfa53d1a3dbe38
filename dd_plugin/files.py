"""Files that are there whole or not at all, and the names of the tensors in them.

At the bottom, for every part that writes. A file is written under a name of its process first and
then renamed, a folder likewise. A process that is killed between the two leaves the first name
behind, which `remove_leftovers` deletes.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from filelock import BaseFileLock, FileLock, SoftFileLock
from torch import Tensor

_State = TypeVar("_State")
_T = TypeVar("_T")

# Seconds to wait for another process, which is done in a few milliseconds.
PATIENCE = 30.0
# Names of version 0.1.0 have no checksum of the machine's name.
_PARTIAL = re.compile(r"\..+\.(?P<process>\d+)(-(?P<host>[0-9a-f]{8}))??(-[0-9a-f]{8})?\.partial")
# Seconds after which a writer on another machine, which this one cannot ask, is done.
_DONE = 3600.0
# Seconds by which the clock of a file system may be off.
_SLACK = 2.0

# Writing.


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole, or leave it as it was."""
    write_together(path.parent, {path.name: content})


def write_together(folder: Path, files: Mapping[str, bytes | Path]) -> None:
    """Write several files so that none is replaced before all are on the disk.

    They are renamed in their order. A process that is killed between two renames leaves files of
    two sets side by side. Reading finds that out by the checksums in the record, written last.

    Args:
        folder: where they go.
        files: name to content, or to the path of a file with the content.
    """
    # Names of this process: two writers do not meet.
    partial = {name: (folder / name).with_name(partial_name(Path(name).name)) for name in files}
    for parent in {path.parent for path in partial.values()}:
        remove_leftovers(parent)
    try:
        for name, content in files.items():
            partial[name].parent.mkdir(parents=True, exist_ok=True)
            with partial[name].open("wb") as file:
                if isinstance(content, Path):
                    with content.open("rb") as source:
                        shutil.copyfileobj(source, file)
                else:
                    file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for name, path in partial.items():
            path.replace(folder / name)
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Give a folder to write into that takes its place once all is written.

    Args:
        folder: its final place, where there is no folder yet or an empty one.

    Raises:
        ValueError: it exists and is not empty.
        OSError: it cannot be written; it stays as it was.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"`folder` must be new or empty, got {folder}; use another one")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield partial
        partial.chmod(0o755)
        if folder.exists():
            folder.rmdir()
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def replace_folder(partial: Path, final: Path) -> None:
    """Give a folder that is on the disk its final name, in the place of one that had it."""
    if final.exists():
        shutil.rmtree(final)
    partial.rename(final)
    flush(final.parent)


def flush(path: Path) -> None:
    """Bring a file or folder to the disk, so that a rename never outruns the content."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock a file while it is read and written; the hidden file of the lock stays.

    Raises:
        OSError: there can be no lock, or another process keeps it too long.
    """
    # Group-writable, for folders that several people share.
    lock: BaseFileLock = FileLock(lock_of(path), timeout=PATIENCE, mode=0o664)
    try:
        lock.acquire()
    except NotImplementedError:  # a file system without locks: the existence of a file is one then
        lock = SoftFileLock(lock_of(path), timeout=PATIENCE)
        lock.acquire()
    try:
        yield
    finally:
        with suppress(OSError):
            lock.release()


def lock_of(path: Path) -> Path:
    """Return the file that is locked for a path."""
    return path.with_name(f".{path.name}.lock")


# What a killed process left.


def partial_name(name: str) -> str:
    """Return the name under which this process writes a file first."""
    return f".{name}.{os.getpid()}-{_host()}-{secrets.token_hex(4)}.partial"


def remove_leftovers(folder: Path) -> None:
    """Delete the half-written files of processes that are gone, as far as that is possible."""
    with suppress(OSError):
        for path in list(folder.iterdir()):
            writer = _PARTIAL.fullmatch(path.name)
            if writer:
                with suppress(OSError):
                    written = path.stat().st_mtime
                    if writer["host"] not in (None, _host()):
                        is_left = time.time() - written > _DONE
                    else:
                        is_left = _is_gone(int(writer["process"]), written)
                    if is_left:
                        path.unlink()


def remove_partial_folders(folder: Path, pattern: str) -> None:
    """Delete half-written folders, whose writer is known to be gone."""
    for path in folder.glob(pattern):
        shutil.rmtree(path, ignore_errors=True)


def _host() -> str:
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


def _is_gone(process: int, written: float) -> bool:
    """Return whether the process of this machine that wrote a file at that time is gone."""
    if process == os.getpid():
        return False
    began = _beginning(process)
    # A process that began after the file was written has only the number of its writer.
    return began is None or began > written + _SLACK


def _beginning(process: int) -> float | None:
    """Return when a process began, in seconds since 1970; None if there is no such process."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except PermissionError:
        pass  # of another user
    if not sys.platform.startswith("linux"):
        return 0.0
    try:
        # The fields follow the command's name in parentheses, which may hold any character.
        ticks = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        return time.time() - uptime + int(ticks) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0


# Names of tensors.


def under(tensors: Mapping[str, _T], prefix: str) -> dict[str, _T]:
    """Return the values whose names begin with a prefix, by the rest of their names."""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def flat(state: Any) -> list[tuple[str, Tensor]]:
    """Return the tensors of a named tuple of dictionaries, each named by its place."""

    def walk(stem: str, tree: Any) -> Iterator[tuple[str, Tensor]]:
        if isinstance(tree, dict):
            for key in tree:
                yield from walk(f"{stem}.{key}", tree[key])
        else:
            yield stem, tree

    trees = zip(state._fields, state, strict=True)
    return [pair for field, tree in trees for pair in walk(field, tree)]


def restored(like: _State, saved: Mapping[str, Any], stem: str) -> _State:
    """Return a state with the structure of another, and copies of the tensors saved by name."""

    def walk(name: str, tree: Any) -> Any:
        if isinstance(tree, dict):
            return {key: walk(f"{name}.{key}", value) for key, value in tree.items()}
        return like_saved(saved, name, tree).clone()

    state: Any = like
    trees = zip(state._fields, state, strict=True)
    return state._make(walk(f"{stem}{field}", tree) for field, tree in trees)


def like_saved(saved: Mapping[str, Any], name: str, like: Tensor) -> Tensor:
    """Return a saved tensor with the dtype and device of another.

    Raises:
        ValueError: no tensor was saved with that name and shape.
    """
    value = saved.get(name)
    if not isinstance(value, Tensor) or value.shape != like.shape:
        got = tuple(value.shape) if isinstance(value, Tensor) else "nothing"
        raise ValueError(
            f"the saved networks must have {name} of shape {tuple(like.shape)}, got {got}; they "
            "are of another model or inner optimizer"
        )
    return value.detach().to(like.device, like.dtype)
