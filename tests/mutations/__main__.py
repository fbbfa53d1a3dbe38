"""Put every fault into a copy of the repository, run the tests that have to notice, and tell."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.mutations.faults import FAULTS, Fault, MovedError, place_of, targets_of
from tests.repository import ROOT

_LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "site", "shared")
# Exit codes of pytest.
_PASSED, _FAILED = 0, 1


def run_tests(repository: Path, targets: list[str], timeout: float) -> int:
    """The exit code of pytest in a copy of the repository, up to the first failure.

    Nothing compiled is written: two faults of one second and one size would be taken for one.
    """
    environment = {**os.environ, "PYTHONPATH": str(repository), "PYTHONDONTWRITEBYTECODE": "1"}
    words = ["-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *targets]
    try:
        done = subprocess.run(
            [sys.executable, *words],
            cwd=repository,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        return -1
    if done.returncode not in (_PASSED, _FAILED):
        print(done.stdout[-2000:], done.stderr[-2000:], file=sys.stderr)
    return done.returncode


def verdict(fault: Fault, repository: Path, timeout: float) -> str:
    """What came of a fault; the copy is as it was before afterwards."""
    targets = targets_of(fault, repository / "tests")
    try:
        path = place_of(fault, repository / "dd_plugin")
    except MovedError as error:
        return f"not tried: {error}"
    before = path.read_text(encoding="utf-8")
    path.write_text(before.replace(fault.old, fault.new), encoding="utf-8")
    try:
        code = run_tests(repository, targets, timeout)
    finally:
        path.write_text(before, encoding="utf-8")
    return {_PASSED: "NOT NOTICED", _FAILED: "noticed", -1: "noticed (hangs)"}.get(
        code, f"not tried: pytest ended with {code}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="WORD", help="faults with such a word in name")
    parser.add_argument("--timeout", type=float, default=900, help="seconds for the tests of one")
    parser.add_argument(
        "--sound", action="store_true", help="run the tests without a fault first; they must pass"
    )
    args = parser.parse_args()
    faults = [f for f in FAULTS if args.only is None or any(w in f.name for w in args.only)]
    unnoticed = 0
    with tempfile.TemporaryDirectory() as place:
        repository = Path(place) / "repository"
        shutil.copytree(ROOT, repository, ignore=_LEFT_OUT, symlinks=True)
        if args.sound:
            targets = sorted({t for f in faults for t in targets_of(f, repository / "tests")})
            if run_tests(repository, targets, args.timeout) != _PASSED:
                print("the tests do not pass without a fault")
                return 2
        for fault in faults:
            start = time.perf_counter()
            said = verdict(fault, repository, args.timeout)
            unnoticed += not said.startswith("noticed")
            print(f"{fault.name:45} {time.perf_counter() - start:5.0f} s  {said}", flush=True)
    print(f"{len(faults) - unnoticed} of {len(faults)} noticed")
    return int(bool(unnoticed))


if __name__ == "__main__":
    sys.exit(main())
