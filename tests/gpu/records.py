"""The results on disk: one file of JSON lines per part, each line written as it comes.

A line is a row, a dictionary whose ``case`` says what was tried, or ``{"about": ...}``, what it was
tried on. A row without ``error`` and ``unfinished`` is a result. Lines are only ever added; of rows
of the same case the last one counts. A line that was cut off is left out.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from tests.repository import ROOT

Case = Mapping[str, Any]
Row = dict[str, Any]

PACKAGES = ("timm", "transformers", "accelerate", "higher", "torchopt", "triton", "numpy")


def key_of(case: Case) -> str:
    """What tells a case from the others."""
    return json.dumps(case, sort_keys=True)


def code_version() -> str:
    """A digest of what is tried: the package and these checks."""
    digest = hashlib.sha256()
    folders = ("dd_plugin", "tests/gpu", "tests/benchmarks")
    for path in sorted(p for folder in folders for p in (ROOT / folder).rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def about_machine(device: str) -> dict[str, Any]:
    """The card or the processor, and the versions of what ran."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    about: dict[str, Any] = {
        "device": device_name(device),
        "cpu_cores": os.cpu_count(),
        "versions": versions,
        "code": code_version(),
        "date": time.strftime("%Y-%m-%d"),
    }
    if device == "cuda":
        about |= {
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "gigabytes": round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1),
        }
    return about


def device_name(device: str) -> str:
    """The card's name; of a CPU, ``cpu``."""
    return torch.cuda.get_device_name() if device == "cuda" else device


class Journal:
    """The file of one part.

    Args:
        path: the file, which need not exist.

    Attributes:
        rows: the last row of every case, by `key_of`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, Row] = {}
        for line in read_lines(path):
            if "case" in line:
                self.rows[key_of(line["case"])] = line

    def add(self, line: Row) -> None:
        """Write a line to the disk."""
        if "case" in line:
            self.rows[key_of(line["case"])] = line
        text = json.dumps(line) + "\n"
        if self.path.exists() and self.path.read_bytes()[-1:] not in (b"", b"\n"):
            text = "\n" + text  # the line before was cut off
        with self.path.open("a") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def is_done(self, case: Case, code: str) -> bool:
        """Whether a case has a result; an error counts as one until the code has changed."""
        row = self.rows.get(key_of(case))
        if row is None or "unfinished" in row:
            return False
        return "error" not in row or row.get("code") == code


def read_lines(path: Path) -> list[Row]:
    """The whole lines of a file, in order; none where there is no file."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines


def take_over(earlier: Path, out: Path, names: Iterable[str]) -> None:
    """Copy the files of an earlier run that this one does not have."""
    for name in names:
        for source in sorted(earlier.glob(name)):
            if not (out / source.name).exists():
                (out / source.name).write_bytes(source.read_bytes())
