"""The command; see the top of the package."""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.gpu.plan import PARTS, SIZES
from tests.gpu.schedule import Options, run


def options_of(arguments: list[str] | None = None) -> Options:
    """The options of a command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu",
        description="Check, measure and distill on a GPU; results are written to DIR as they come.",
    )
    parser.add_argument("--minutes", type=float, default=12.0, help="for everything (default: 12)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="results go here")
    parser.add_argument(
        "--data", type=Path, metavar="FILE", help="images of tests.gpu.pack; without them, noise"
    )
    parser.add_argument(
        "--resume", type=Path, metavar="DIR", help="continue from the results of an earlier run"
    )
    parser.add_argument(
        "--only", default=",".join(PARTS), help="parts, separated by commas (default: %(default)s)"
    )
    parser.add_argument(
        "--match", default="", metavar="REGEX", help="only cases and recipes that match it"
    )
    parser.add_argument(
        "--compile",
        default="",
        choices=("", "trace", "inductor"),
        help="how recipes are run (default: as what was faster in fast)",
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), help="cuda where there is one")
    parser.add_argument("--size", choices=SIZES, default="full", help="toy: to try the command")
    given = parser.parse_args(arguments)
    parts = tuple(name.strip() for name in given.only.split(","))
    unknown = [name for name in parts if name not in PARTS]
    if unknown:
        parser.error(f"--only takes {', '.join(PARTS)}; got {unknown[0]!r}")
    if given.data is not None and not given.data.is_file():
        parser.error(f"--data: there is no file {given.data}; make it with tests.gpu.pack")
    if given.resume is not None and not given.resume.is_dir():
        parser.error(f"--resume: there is no folder {given.resume}")
    if given.minutes <= 0:
        parser.error(f"--minutes must be positive, got {given.minutes:g}")
    device = given.device or _found_device()
    if device is None:
        parser.error("no GPU was found; to try the command on a CPU: --device cpu --size toy")
    return Options(
        out=given.out,
        device=device,
        size=given.size,
        minutes=given.minutes,
        data=given.data,
        resume=given.resume,
        match=given.match,
        compile=given.compile,
        parts=tuple(name for name in PARTS if name in parts),
    )


def _found_device() -> str | None:
    import torch

    return "cuda" if torch.cuda.is_available() else None


if __name__ == "__main__":
    run(options_of())
