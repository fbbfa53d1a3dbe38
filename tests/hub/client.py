"""A process in which `huggingface_hub` and `datasets` talk to the loopback Hub.

Both read ``HF_ENDPOINT`` and where their cache is when they are imported, so nothing that imports
them may be imported here before `_begin` has set the environment.
"""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Self


class ClientError(Exception):
    """What a call raised in the client's process: the name of its class, and what it said."""

    def __init__(self, kind: str, message: str, trace: str) -> None:
        super().__init__(kind, message, trace)
        self.kind, self.message = kind, message


def _begin(url: str, home: str) -> None:
    for name in list(os.environ):
        if name.startswith("HF_") or name.lower().endswith("_proxy"):
            del os.environ[name]
    os.environ |= {
        "HF_ENDPOINT": url,
        "HF_HOME": home,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",
        "NO_PROXY": "127.0.0.1",
    }
    # The clients wait for seconds between their own attempts.
    sleep = time.sleep
    time.sleep = lambda seconds: sleep(min(float(seconds), 0.01))


def _call(function: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    try:
        return function(*arguments, **options)
    except Exception as error:  # noqa: BLE001 - not every exception survives the way back
        return ClientError(type(error).__name__, str(error), traceback.format_exc())


class Client:
    """Runs functions of importable modules in a process of its own, whose Hub is at ``url``.

    Args:
        url: of the Hub.
        home: an empty folder: token, caches.
    """

    def __init__(self, url: str, home: Path) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, spawn, initializer=_begin, initargs=(url, str(home)))

    def __call__(self, function: Any, *arguments: Any, **options: Any) -> Any:
        result = self._pool.submit(_call, function, arguments, options).result(timeout=200)
        if isinstance(result, ClientError):
            raise result
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
