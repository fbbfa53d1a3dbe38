"""The whole command at toy size on a CPU: killed in the middle, called again, and resumed later."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.gpu import publish
from tests.gpu.pack import pack, read_pack
from tests.gpu.plan import PARTS, RECIPES, cases, limit_of
from tests.gpu.quality import archive_of
from tests.gpu.records import Journal, key_of, read_lines
from tests.repository import ROOT

PEERS = ("higher", "torchopt")


def command(out, *more):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    arguments = ["--out", str(out), "--device", "cpu", "--size", "toy", "--minutes", "10", *more]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.gpu", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_rows(path, count):
    deadline = time.monotonic() + 120
    while sum("case" in line for line in read_lines(path)) < count:
        assert time.monotonic() < deadline, "no rows came"
        time.sleep(0.1)


def status_of(pid):
    """State and parent of a process; None if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return fields[0], int(fields[1])


def children_of(process):
    found = {int(path.name): status_of(path.name) for path in Path("/proc").glob("[0-9]*")}
    return [pid for pid, status in found.items() if status and status[1] == process.pid]


def is_running(pid):
    # One that has ended stays in the table where nobody waits for it.
    status = status_of(pid)
    return status is not None and status[0] != "Z"


@pytest.mark.slow
def test_everything_is_tried_however_often_it_is_cut_off(tmp_path):
    out = tmp_path / "out"
    first = command(out)
    wait_for_rows(out / "right.jsonl", 3)
    workers = children_of(first)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert workers
    deadline = time.monotonic() + 10
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(is_running, workers))
    written = (out / "right.jsonl").read_text()
    assert not (out / "good.jsonl").exists()

    second = command(out)
    said, _ = second.communicate(timeout=500)
    assert second.returncode == 0, said
    assert (out / "right.jsonl").read_text().startswith(written)
    for part in ("right", "fast"):
        journal = Journal(out / f"{part}.jsonl")
        for case in cases(part, "toy"):
            row = journal.rows[key_of(case)]
            if case.get("tool") in PEERS and "ModuleNotFoundError" in row.get("error", ""):
                continue
            assert "error" not in row, row
            assert "unfinished" not in row
            assert row.get("ok", True), row
    # Every recipe has been distilled and left a checkpoint that is small enough to travel.
    journal = Journal(out / "good.jsonl")
    for recipe in RECIPES:
        rows = [r for r in journal.rows.values() if r["case"]["recipe"] == recipe]
        assert any("accuracy_mean" in r for r in rows), rows
        assert not any("error" in r for r in rows), rows
        assert (out / archive_of(recipe)).stat().st_size < 1 << 20
    assert len(list(out.iterdir())) <= 8

    # Somewhere else, with what came out here: the recipes go on from their checkpoints.
    later = tmp_path / "later"
    third = command(later, "--resume", str(out), "--only", "good")
    said, _ = third.communicate(timeout=300)
    assert third.returncode == 0, said
    after = Journal(later / "good.jsonl")
    for recipe in RECIPES:
        before, now = (
            max(r["step"] for r in j.rows.values() if r["case"]["recipe"] == recipe and "step" in r)
            for j in (journal, after)
        )
        assert now > before
        seconds = [
            r["seconds"]
            for r in sorted(after.rows.values(), key=lambda r: r.get("step", 0))
            if r["case"]["recipe"] == recipe and "seconds" in r
        ]
        assert seconds == sorted(seconds)
        assert len(set(seconds)) == len(seconds)

    found = publish.results_of(later)
    assert list(found) == list(PARTS)
    ours = [r for r in found["fast"]["rows"] if r["case"].get("tool") == "ours eager"]
    timed = next(r for r in ours if "peak_bytes" in r)
    assert timed["ratio_to_plain"] > 1
    assert timed["ratio_to_floor"] > 1
    lines = publish.lines_of(found)
    assert sum("accuracy" not in line and "0 unfinished" in line for line in lines) == len(PARTS)
    publish.main([str(later), "--json", str(tmp_path)])
    stored = json.loads((tmp_path / "gpu-right.json").read_text())
    assert stored["hardware"] == "cpu"
    assert len(stored["rows"]) == len(cases("right", "toy"))


def test_what_went_wrong_is_shown_first():
    about = {"hardware": "card", "torch": "2"}
    wrong = {"case": {"check": "layer"}, "ok": False, "errors": {"output": 1.0}, "limit": 0.1}
    failed = {"case": {"check": "time"}, "error": "RuntimeError: planted"}
    lines = publish.lines_of({"right": {**about, "rows": [wrong, failed]}})
    assert lines[0] == "right, card, torch 2: 2 rows, 2 wrong, 0 unfinished"
    assert "'output': 1.0" in lines[1]
    assert lines[2].endswith("RuntimeError: planted")


def test_the_full_plan_names_every_case_once_and_compiles_last():
    for part in ("right", "fast"):
        keys = [key_of(case) for case in cases(part, "full")]
        assert len(set(keys)) == len(keys)
    right = cases("right", "full")
    assert {case["model"] for case in right if "model" in case} == {"convnet", "resnet18", "vit"}
    assert {case.get("storage") for case in right} >= {"host", "recompute", "kept"}
    compiled = [limit_of(case) > 200 for case in right]
    assert not any(compiled[: len(compiled) // 2])


def test_packed_images_are_the_images(tmp_path):
    from tests.data.tables import images, table

    pixels = images(6, shape=(8, 8, 3))
    table(pixels).to_parquet(tmp_path / "train-0.parquet")
    table(pixels[:2]).to_parquet(tmp_path / "validation.parquet")
    assert pack(tmp_path, tmp_path / "packed") == {"train": 6, "validation": 2}
    found = read_pack(tmp_path / "packed")
    for split, expected in (("train", pixels), ("validation", pixels[:2])):
        stored, labels = found[split]
        assert stored.dtype == np.uint8
        assert labels.dtype == np.int64
        assert (stored == expected.transpose(0, 3, 1, 2)).all()
    assert len(read_pack(tmp_path / "packed", limit=1)["train"][1]) == 1
    with pytest.raises(FileNotFoundError, match="no train"):
        pack(tmp_path / "nowhere", tmp_path / "packed")
