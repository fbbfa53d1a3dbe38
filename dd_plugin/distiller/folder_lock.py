"""A lock on the folder of a run, so that no two runs write to one folder.

Used by `distiller` on the main process, from the first step on. The operating system holds the lock
and lets go of it when the process ends, however it ends. So neither a process that is gone nor
another one with its number can be taken for the holder. Who holds it stands in a second file, for
the message alone.
"""

from __future__ import annotations

import json
import os
import socket
import warnings
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

LOCK, HOLDER = ".run.lock", ".run.json"
# Seconds. Another process that only looks whether the folder is free holds the lock for a moment.
_PATIENCE = 2.0

# The folders that this process holds: two objects of one process share its hold.
_held: dict[Path, FolderLock] = {}


class FolderInUseError(ValueError):
    """Another run is writing to the folder."""


class FolderLock:
    """The lock of one run on its folder.

    Args:
        folder: of the run; `acquire` makes it.

    Attributes:
        busy: the run is under way, so no other one of this process may take the lock over.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.busy = False
        self._process = os.getpid()
        self._lock: FileLock | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return _held.get(self.folder) is self

    def acquire(self) -> None:
        """Take the lock, also from a run of this process that is not under way.

        Warns:
            UserWarning: the file system has no locks.

        Raises:
            FolderInUseError: another run has it.
        """
        if self.held:
            return
        other = _held.get(self.folder)
        if other is not None:
            if other.busy:
                raise FolderInUseError(_in_use(self.folder))
            other.release()
        self.folder.mkdir(parents=True, exist_ok=True)
        # Another thread may release it, as the collector of garbage does.
        lock = FileLock(self.folder / LOCK, timeout=_PATIENCE, thread_local=False)
        try:
            lock.acquire(poll_interval=0.05)
        except Timeout as error:
            raise FolderInUseError(_in_use(self.folder)) from error
        except (OSError, NotImplementedError) as error:
            warnings.warn(
                f"{str(self.folder)!r} cannot be locked ({error}); a second run in it would not be "
                "noticed",
                stacklevel=3,
            )
            return
        self._lock, self._process = lock, os.getpid()
        _held[self.folder] = self
        holder = {
            "process": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now().astimezone().isoformat(" ", "seconds"),
        }
        # The lock counts, not what is told about it.
        with suppress(OSError):
            (self.folder / HOLDER).write_text(json.dumps(holder))

    def release(self) -> None:
        """Let go of the lock, if this object holds it; a forked child of its process does not."""
        if self._lock is None or self._process != os.getpid():
            return
        if self.held:
            del _held[self.folder]
        with suppress(OSError):
            (self.folder / HOLDER).unlink(missing_ok=True)
        lock, self._lock, self.busy = self._lock, None, False
        with suppress(OSError):
            lock.release()


def check_not_in_use(folder: Path) -> None:
    """See that no other run holds a folder.

    Raises:
        FolderInUseError: one does.
    """
    folder = folder.resolve()
    if not (folder / LOCK).exists():  # nobody has ever locked it
        return
    mine = _held.get(folder)
    if mine is not None:
        if mine.busy:
            raise FolderInUseError(_in_use(folder))
        return
    lock = FileLock(folder / LOCK, timeout=_PATIENCE, thread_local=False)
    try:
        lock.acquire(poll_interval=0.05)
    except Timeout as error:
        raise FolderInUseError(_in_use(folder)) from error
    except (OSError, NotImplementedError):
        return  # `acquire` warns
    lock.release()


def _in_use(folder: Path) -> str:
    try:
        holder = json.loads((folder / HOLDER).read_text("utf-8"))
        who = f"process {holder['process']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        who = "another process"
    return (
        f"`output_dir` {str(folder)!r} is in use by a run of {who}; give this run another "
        "`output_dir`, or wait until that one has ended"
    )
