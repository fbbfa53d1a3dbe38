"""The process that runs cases: one JSON case per line of standard input, rows on standard output.

Started by `schedule`, which ends it when a case takes too long and starts another when it has died.
What a case raises is its result.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from tests.gpu.records import Row

READY, ROW, DONE = "READY ", "ROW ", "DONE"
_TRACE = 1500  # characters of a traceback that are kept
_PR_SET_PDEATHSIG = 1  # of prctl(2)

Check = Callable[[Mapping[str, Any], str, str], Row]


def checks_of(part: str) -> dict[str, Check]:
    """The functions of a part by the names of `plan`; only that part's imports."""
    if part == "right":
        from tests.gpu import hypergradients, layers, runs

        return {
            "hypergradient": hypergradients.check_hypergradient,
            "layer": layers.check_layer,
            "resume": runs.check_resume,
            "travel": runs.check_travel,
        }
    if part == "fast":
        from tests.gpu import speed

        return {
            "product": speed.check_product,
            "copy": speed.check_copy,
            "work": speed.check_work,
            "time": speed.check_time,
            "launches": speed.check_launches,
        }
    from tests.gpu import quality

    def distill(case: Mapping[str, Any], device: str, size: str) -> Row:
        return quality.distill(case, device, size, lambda row: _say(ROW + json.dumps(row)))

    return {"distill": distill}


def result_of(check: Check, case: Mapping[str, Any], device: str, size: str) -> Row:
    """The row of a case; ``error`` and ``traceback`` if it failed."""
    began = time.monotonic()
    try:
        row = dict(check(case, device, size))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is, it is the result
        row = {
            "error": f"{type(error).__name__}: {error}"[:600],
            "traceback": _ends_of_chain(error),
        }
    return {**row, "case_seconds": round(time.monotonic() - began, 2)}


def _ends_of_chain(error: BaseException) -> str:
    """The ends of the tracebacks of an error and of what caused it, the first cause first."""
    text = "".join(traceback.format_exception(error, chain=False))[-_TRACE:]
    cause = error.__cause__
    return text if cause is None else f"{_ends_of_chain(cause)}\n{text}"


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _end_with_parent() -> None:
    """Have the kernel end this process when the one that started it is gone, however it went."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Run what comes in until the input ends."""
    part, device, size = sys.argv[1:]
    _end_with_parent()
    if device == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
    import torch

    if device == "cuda":
        torch.zeros((), device=device)
    from tests.gpu.records import about_machine

    checks = checks_of(part)
    _say(READY + json.dumps(about_machine(device)))
    for line in sys.stdin:
        case = json.loads(line)
        row = result_of(checks[case["check"]], case, device, size)
        _say(ROW + json.dumps(row))
        _say(DONE)


if __name__ == "__main__":
    main()
