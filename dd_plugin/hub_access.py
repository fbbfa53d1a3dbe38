"""Access to the Hugging Face Hub: is it reachable, and at which commit are a model's files?

Below `networks` and `data`. Without a network the client of the Hub tries each file of a model six
times in half a minute, and looks into its cache then. Here the Hub is asked once before: if nothing
listens for connections, the cache alone is used, without delay. A connection that is merely slow is
left to the client.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dd_plugin.private import commit_of
from dd_plugin.text import described

__all__ = [
    "cached_commit",
    "hub_access",
    "local_path",
    "revision_of",
    "why_no_hub",
]

# Attempts to connect, seconds between two of them, and seconds that one may take.
_ATTEMPTS = 2
_WAIT = 1.0
_PATIENCE = 10.0
# Errors of httpx, httpx2 and requests, which the client has used one after the other.
_NOT_CONNECTED = ("ConnectError", "ConnectionError", "ProxyError", "ConnectTimeout")

# What the client says of a file that is not in its cache, where it does not ask the Hub.
_NOT_CACHED = ("LocalEntryNotFoundError", "OfflineModeIsEnabled")

# Seconds for which an address that has not answered is not asked again.
_PAUSE = 60.0

# Addresses that have answered in this process, and those that have not: when, and why.
_reached: set[str] = set()
_missed: dict[str, tuple[float, str]] = {}
# Why the Hub is left alone at the moment.
_reason: str | None = None


@contextmanager
def hub_access(name: str | None = None) -> Iterator[None]:
    """Load something that may be on the Hub: from the cache alone, if nobody answers there.

    Args:
        name: what is loaded. For a file or folder of this machine nobody is asked.
    """
    from huggingface_hub import constants

    global _reason
    is_local = name is not None and local_path(os.path.expandvars(name)) is not None
    if constants.HF_HUB_OFFLINE or is_local:
        yield
        return
    reason = _unreachable(constants.ENDPOINT)
    if reason is None:
        yield
        return
    constants.HF_HUB_OFFLINE, _reason = True, reason
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, _reason = False, None


def why_no_hub(error: BaseException) -> str | None:
    """Return why files that are not in the cache are not fetched, and what to do.

    Args:
        error: what was raised inside of `hub_access`, where this is called, too.

    Returns:
        None if the Hub was asked, or the error is of another kind.
    """
    from huggingface_hub import constants

    if not any(type(each).__name__ in _NOT_CACHED for each in _chain(error)):
        return None
    if _reason is not None:
        return (
            f"{constants.ENDPOINT} cannot be reached ({_reason}) and the cache does not have the "
            "files; check the network, or HTTPS_PROXY where a proxy is needed, or give a folder"
        )
    if constants.HF_HUB_OFFLINE:
        return (
            "the Hub is not asked, since HF_HUB_OFFLINE is set, and the cache does not have the "
            "files; unset it, or give a folder"
        )
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it came from."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        yield each
        seen.add(id(each))
        each = each.__cause__ or each.__context__


def local_path(name: str) -> Path | None:
    """Return the file or folder of a name; None where there is none."""
    try:
        path = Path(name)
        return path if path.exists() else None
    except (OSError, ValueError):  # too long, or with a zero in it
        return None


def _unreachable(endpoint: str) -> str | None:
    """Return why no connection to an address can be made; None if one can, or it is not known."""
    from huggingface_hub import get_session

    if endpoint in _reached:
        return None
    since, reason = _missed.get(endpoint, (-math.inf, ""))
    if time.monotonic() - since < _PAUSE:
        return reason
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_WAIT)
        try:
            get_session().head(endpoint, timeout=_PATIENCE)
        except Exception as error:  # noqa: BLE001 - the client may use any library
            kinds = {kind.__name__ for kind in type(error).__mro__}
            if not kinds.intersection(_NOT_CONNECTED):
                return None
            reason = described(error)
            if "ConnectTimeout" in kinds:
                break
        else:
            _reached.add(endpoint)
            return None
    _missed[endpoint] = (time.monotonic(), reason)
    return reason


# --- commits -------------------------------------------------------------------------------------


def cached_commit(name: str, revision: str | None) -> str | None:
    """Return the commit of a model's configuration in the cache; None if it is not known.

    Args:
        name: The id of the model on the Hub.
        revision: Branch, tag or commit.
    """
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(name, "config.json", revision=revision)
    commit = Path(path).parent.name if isinstance(path, str) else ""
    return commit if re.fullmatch("[0-9a-f]{40}", commit) else None


def revision_of(model: Any) -> str | None:
    """Return the commit on the Hub that a transformers model was loaded from, where it is known."""
    return commit_of(getattr(model, "config", None))
