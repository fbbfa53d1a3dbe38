"""The compiler's cache on disk, when it holds a damaged file.

Beside `compile`. A process that is killed while the compiler writes leaves a truncated file behind,
and every later compilation that finds it fails. Such a failure is told by the file that its message
names. The compilation is then tried once more with an empty cache.
"""

from __future__ import annotations

import atexit
import getpass
import os
import re
import shutil
import tempfile
import warnings
from pathlib import Path

from dd_plugin.bilevel.messages import level_of_caller
from dd_plugin.private import forget_compiled_files

_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
# Part of the default folder's name, whatever the user is called.
_DEFAULT = "torchinductor"
_PATH = re.compile(r"/[^\s:'\"(),]+")


class CompileCacheWarning(UserWarning):
    """The compiler's cache holds a damaged file, so it is not used."""


def cache_folder() -> Path:
    """Return the folder of the compiler's cache, which need not exist yet."""
    if folder := os.environ.get(_VARIABLE):
        return Path(folder)
    # As torch names it; so a reboot that empties the one empties the other.
    try:
        name = getpass.getuser()
    except (KeyError, ModuleNotFoundError, OSError):  # a user without a name, in a container
        name = f"uid_{os.getuid()}" if hasattr(os, "getuid") else "unknown_user"
    user = re.sub(r'[\\/:*?"<>|]', "_", name)
    return Path(tempfile.gettempdir()) / f"{_DEFAULT}_{user}"


def damaged_entry(error: BaseException) -> Path | None:
    """Return the file of the compiler's cache that an error or its causes name, or None."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        for text in _PATH.findall(str(current)):
            path = Path(text)
            if _is_cached(path) and path.is_file():
                return path
        current = current.__cause__ or current.__context__
    return None


def _is_cached(path: Path) -> bool:
    folder = os.environ.get(_VARIABLE)
    if folder:
        return path.is_relative_to(folder)
    return any(_DEFAULT in part for part in path.parts[:-1])


def use_fresh_cache(damaged: Path) -> None:
    """Let this process compile with an empty cache, which is deleted at its end.

    Args:
        damaged: the file that stands in the way, for the warning.
    """
    folder = tempfile.mkdtemp(prefix="torchinductor_fresh_")
    os.environ[_VARIABLE] = folder
    forget_compiled_files()
    atexit.register(_delete, folder, os.getpid())
    warnings.warn(
        f"the compiler's cache holds a damaged file, {str(damaged)!r}, as a process leaves it that "
        "is killed while it compiles. This process compiles again, without that cache; delete the "
        "file to have the cache back.",
        CompileCacheWarning,
        stacklevel=level_of_caller(),
    )


def _delete(folder: str, process: int) -> None:
    if os.getpid() == process:  # not in a fork
        shutil.rmtree(folder, ignore_errors=True)
