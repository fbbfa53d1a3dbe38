"""How long a distilled set takes to write, push and load, by the number of its images.

    python -m tests.benchmarks.hub --json docs/results/hub-cpu.json

Random images of 3 x 32 x 32 in ten classes, which PNG cannot compress. The Hub is the loopback one
of the tests, on the same machine, so what is timed is everything but the network: writing the
folder, checksums, requests, the client's own work. Clients are processes of their own whose caches
are empty; what they import is imported before the clock starts. The folder is written once; every
round has a Hub and clients of its own, and the median over the rounds is reported. Rows that the
JSON file already has and that are not measured again stay in it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.hub.client import Client
from tests.hub.loopback import Hub

COUNTS = (10, 100, 1_000, 10_000, 50_000)
REPO, TOKEN = "ada/one", "ada-token"

# --- in the client's process ---------------------------------------------------------------------


def ready() -> None:
    """Imports what the calls need."""
    import datasets
    import huggingface_hub

    import dd_plugin.hub

    assert all(
        (datasets.load_dataset, huggingface_hub.snapshot_download, dd_plugin.hub.push_folder)
    )


def push(folder: str) -> float:
    from dd_plugin.hub.remote.push import push_folder

    began = time.perf_counter()
    push_folder(folder, REPO, token=TOKEN)
    return time.perf_counter() - began


def snapshot(folder: str) -> float:
    from huggingface_hub import snapshot_download

    began = time.perf_counter()
    snapshot_download(REPO, repo_type="dataset", local_dir=folder)
    return time.perf_counter() - began


def read(count: int) -> float:
    from dd_plugin import DistilledDataset

    began = time.perf_counter()
    assert len(DistilledDataset.from_pretrained(REPO)) == count
    return time.perf_counter() - began


def load(count: int) -> float:
    """`load_dataset`, and one image decoded."""
    from datasets import load_dataset

    began = time.perf_counter()
    data = load_dataset(REPO, split="train")
    assert data[len(data) - 1]["image"].size == (32, 32)
    seconds = time.perf_counter() - began
    assert len(data) == count
    return seconds


def stream(_: None) -> float:
    from datasets import load_dataset

    began = time.perf_counter()
    data = load_dataset(REPO, split="train", streaming=True)
    assert next(iter(data))["image"].size == (32, 32)
    return time.perf_counter() - began


# --- here ----------------------------------------------------------------------------------------


# Imported where it is used: clients import this module, too, and `huggingface_hub` reads where the
# Hub is when it is imported.
def write(folder: Path, count: int) -> float:
    from dd_plugin.hub.folder import write_set
    from tests.hub.sets import synthetic_set

    own = synthetic_set(count, 0, (3, 32, 32), tuple("0123456789"))
    began = time.perf_counter()
    write_set(folder, own)
    return time.perf_counter() - began


def one_round(folder: Path, count: int) -> dict[str, float]:
    """Seconds by stage, with a Hub and clients that have nothing."""
    from tests.hub.sets import ACCOUNTS

    seconds = {}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        with Hub(place / "hub", ACCOUNTS) as hub:
            with Client(hub.url, place / "push") as client:
                client(ready)
                seconds["push"] = client(push, str(folder))
                seconds["push_again"] = client(push, str(folder))
            for stage, call, argument in (
                ("snapshot", snapshot, str(place / "copy")),
                ("read", read, count),
                ("load", load, count),
                ("stream", stream, None),
            ):
                with Client(hub.url, place / stage) as client:
                    client(ready)
                    seconds[stage] = client(call, argument)
    return seconds


def measure(count: int, rounds: int) -> dict[str, Any]:
    """A row of the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds = {"write": write(folder, count)}
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        runs = [one_round(folder, count) for _ in range(rounds)]
    seconds |= {stage: statistics.median(run[stage] for run in runs) for stage in runs[0]}
    return {"images": count, "bytes": size, "seconds": seconds, "rounds": runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--counts", type=int, nargs="+", default=list(COUNTS))
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # What writing imports is imported before the clock starts, too.
        write(Path(folder), 6)
    rows = [measure(count, args.rounds) for count in args.counts]
    environment = {
        "python": platform.python_version(),
        **{name: version(name) for name in ("datasets", "huggingface_hub", "pyarrow", "torch")},
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
    }
    if args.json and args.json.exists():
        stored = json.loads(args.json.read_text())["rows"]
        rows += [row for row in stored if row["images"] not in args.counts]
        rows.sort(key=lambda row: row["images"])
    for row in rows:
        print(json.dumps(row))
    if args.json:
        args.json.write_text(
            json.dumps({"environment": environment, "rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
