"""A worker whose cases go wrong in every way that there is, for `test_schedule`."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from typing import Any

from tests.gpu import worker
from tests.gpu.records import Row


def _fine(case: Mapping[str, Any], device: str, size: str) -> Row:
    print("libraries print what they like")
    return {"ok": True, "process": os.getpid(), "device_and_size": [device, size]}


def _raises(case: Mapping[str, Any], device: str, size: str) -> Row:
    raise ZeroDivisionError("planted")


def _exits(case: Mapping[str, Any], device: str, size: str) -> Row:
    raise SystemExit(3)


def _dies(case: Mapping[str, Any], device: str, size: str) -> Row:
    os.kill(os.getpid(), signal.SIGSEGV)
    return {}


def _hangs(case: Mapping[str, Any], device: str, size: str) -> Row:
    time.sleep(600)
    return {}


def _checks_of(part: str) -> dict[str, worker.Check]:
    checks = {"fine": _fine, "raises": _raises, "exits": _exits, "dies": _dies, "hangs": _hangs}
    return {name: check for name, check in checks.items() if part}


if __name__ == "__main__":
    worker.checks_of = _checks_of
    worker.main()
