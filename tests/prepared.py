"""A process that has imported what runs need, and forks for each program that tests ask for.

Most of a short run in a process of its own are imports. `tests/processes.py` starts one
``python -m tests.prepared`` for a worker's tests and writes one line of JSON for each program; the
forks have their own memory, their own standard streams and the environment that was asked for.
Nothing is computed before the fork: threads would be lost in it.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import signal
import sys
import traceback
import warnings

# What a run has imported at its end and costs time.
MODULES = (
    "accelerate",
    "datasets",
    "dd_plugin.distiller",
    "dd_plugin.evaluation",
    "timm",
    "torch._dynamo",
    "torch.distributed",
    "torch.fx.experimental.proxy_tensor",
    "transformers",
    "tests.distiller.toy",
)


def forked(
    script: str, arguments: list[str], folder: str, streams: str, environment: dict[str, str]
) -> int:
    """Run a program in a fork; returns the number of its process."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        for number, name in ((1, "out"), (2, "err")):
            file = os.open(f"{streams}.{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(file, number)
        os.chdir(folder)
        os.environ.update(environment)
        sys.argv = [script, *arguments]
        runpy.run_path(script, run_name="__main__")
        status = 0
    except SystemExit as ending:
        status = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except BaseException:  # noqa: BLE001 - whatever it is, the test shows it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def first_failure(running: set[int]) -> int:
    """Wait for all of some processes; the first that fails ends the others."""
    failed = 0
    while running:
        process, ending = os.wait()
        running.discard(process)
        status = os.waitstatus_to_exitcode(ending)
        if status and not failed:
            failed = status
            for other in running:
                os.kill(other, signal.SIGKILL)
    return failed


def main() -> None:
    import torch

    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in MODULES:
            importlib.import_module(module)
    gc.freeze()  # a collection in a fork would copy what it looks at
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        asked = json.loads(line)
        program = asked["script"], asked["arguments"], asked["folder"], asked["streams"]
        running = [forked(*program, own) for own in asked["environments"]]
        print(json.dumps(running), file=answers, flush=True)
        print(first_failure(set(running)), file=answers, flush=True)


if __name__ == "__main__":
    main()
