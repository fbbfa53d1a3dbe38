"""Files that a killed process left half written.

`folder` writes a file under a name of its process first, then renames it. A process that is killed
between the two leaves the first name behind.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import sys
import time
import zlib
from contextlib import suppress
from pathlib import Path

# Names of 0.1.0 have no checksum of the machine's name.
_PARTIAL = re.compile(r"\..+\.(?P<process>\d+)(-(?P<host>[0-9a-f]{8}))??(-[0-9a-f]{8})?\.partial")
# Seconds after which a writer on another machine, which cannot be asked here, is done.
_DONE = 3600.0
# Seconds by which the clock of a file system may be off.
_SLACK = 2.0


def partial_name(name: str) -> str:
    """Return the name under which this process writes a file first."""
    return f".{name}.{os.getpid()}-{_host()}-{secrets.token_hex(4)}.partial"


def remove_leftovers(folder: Path) -> None:
    """Delete the half-written files of processes that are gone, as far as that is possible."""
    with suppress(OSError):
        for path in list(folder.iterdir()):
            found = _PARTIAL.fullmatch(path.name)
            if found:
                with suppress(OSError):
                    written = path.stat().st_mtime
                    if found["host"] not in (None, _host()):
                        is_left = time.time() - written > _DONE
                    else:
                        is_left = _is_gone(int(found["process"]), written)
                    if is_left:
                        path.unlink()


def remove_partial_folders(folder: Path, pattern: str) -> None:
    """Delete half-written folders, whose writer is known to be gone."""
    for path in folder.glob(pattern):
        shutil.rmtree(path, ignore_errors=True)


def _host() -> str:
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


def _is_gone(process: int, written: float) -> bool:
    """Whether the process of this machine that wrote a file at a time is gone."""
    if process == os.getpid():
        return False
    began = _beginning(process)
    # A process that began after the file was written has only the number of its writer.
    return began is None or began > written + _SLACK


def _beginning(process: int) -> float | None:
    """When a process began, in seconds since 1970; None if there is none of that number."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except PermissionError:
        pass  # somebody else's
    if not sys.platform.startswith("linux"):
        return 0.0
    try:
        # The fields follow the command's name in parentheses, which may hold any character.
        ticks = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        return time.time() - uptime + int(ticks) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0
