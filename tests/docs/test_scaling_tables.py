"""The tables of the profile, of `higher`, of scale and of the plan, from small files."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ABOUT = {"torch": "2.15", "hardware": "two CPU cores"}


@pytest.fixture
def scaling(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return importlib.import_module("rendering.scaling")


def report(*rows):
    return {**ABOUT, "rows": list(rows)}


def cells(text, first):
    """The cells of the line of a table that begins with a word."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {first} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_profile(scaling):
    def time(scale, item, seconds, share):
        row = {"table": "time", "scale": scale, "group": "backward", "item": item}
        return {**row, "seconds": seconds, "share": share, "calls": 1}

    rows = [time("A", "sweep", 3.0, 0.75), time("A", "rest", 1.0, 0.25), time("B", "rest", 2, 1.0)]
    rows.append({"table": "operations", "scale": "A", "kind": "pooling", "share": 0.5, "calls": 3})
    rows.append(
        {"table": "removed", "scale": "A", "item": "trees", "seconds_with": 2.0, "seconds": 1.0}
        | {"ratio": 0.5, "ratios": [0.4, 0.6], "rounds": 3}
    )
    files = {"profile-cpu": report(*rows)}
    text = scaling.profile_time(files)
    assert text.endswith("\n\ntorch 2.15, two CPU cores.")
    assert cells(text, "backward: sweep") == ["backward: sweep", "75.0 %", ""]
    assert cells(text, "seconds of the step")[1:] == ["4.00", "2.00"]
    assert cells(scaling.profile_operations(files), "pooling") == ["pooling", "50.0 %"]
    assert cells(scaling.profile_removed(files), "trees") == ["trees", "0.50 (0.40-0.60)"]


def test_two_trees(scaling):
    row = {"network": "N", "how": "traced", "images": 10, "ratio": 0.954, "quartiles": [0.94, 1.0]}
    text = scaling.two_trees(report(row | {"seconds": {"before": 2.0, "now": 1.908}}))
    assert cells(text, "N")[1:] == ["traced", "10", "2.00", "1.91", "0.95 (0.94-1.00)"]


def test_start_up(scaling):
    row = {"what": "help", "cpu": {"now": 0.1}}
    assert cells(scaling.start_up(report(row)), "help")[1:] == ["", "0.10", ""]
    row |= {"cpu": {"before": 3.0, "now": 0.1}, "ratio": 0.03, "ratios": [0.02, 0.04]}
    expected = ["3.00", "0.10", "0.03 (0.02-0.04)"]
    assert cells(scaling.start_up(report(row)), "help")[1:] == expected


def test_kept_memory(scaling):
    row = {"network": "N", "images": 10, "ratio": 0.75, "ratios": [0.7, 0.8], "memory_ratio": 1.062}
    row |= {"seconds": {"without": 2.0, "with": 1.5}, "faults": {"without": 29868.0, "with": 0.0}}
    expected = ["10", "2.00", "1.50", "0.75 (0.70-0.80)", "29,868 to 0", "1.06"]
    assert cells(scaling.kept_memory(report(row)), "N")[1:] == expected


def test_closing_comparison(scaling):
    row = {"case": "C", "checkout": "now", "steps": 1000.0, "evaluations": 11.0, "closing": 252.75}
    row |= {"random steps": 200, "random": 50.4, "all steps": 400, "all": 200.6, "share": 0.2}
    expected = ["now", "1,011", "253", "20 %", "200, 50", "400, 201"]
    assert cells(scaling.closing_comparison(report(row)), "C")[1:] == expected


def test_kept_activations(scaling):
    row = {"network": "N", "how": "traced", "images": 10, "steps": 20, "kept_bytes": 4.9e6}
    row |= {"seconds": {"none": 2.0, "all": 1.5}, "ratio": 0.75, "ratios": [0.7, 0.8]}
    expected = ["traced", "10", "20", "2.00 to 1.50", "0.75 (0.70-0.80)", "5"]
    assert cells(scaling.kept_activations(report(row)), "N")[1:] == expected


def test_compile_choice(scaling):
    row = {"case": "N", "way": "auto, cold", "compile": "auto", "steps": 500, "seconds": 90.0}
    row |= {"seconds_per_step": 0.123, "measured_steps": 40}
    rows = [{**row, "choice": {"compile": "inductor", "from_step": 30}}]
    rows.append({**row, "case": "S", "choice": {"compile": "trace", "from_step": 4}})
    rows.append({**row, "case": "T", "compile": "inductor", "choice": None})
    text = scaling.compile_choice(report(*rows))
    assert cells(text, "N")[1:] == ["auto, cold", "500", "1.5", "0.12", "31", "40"]
    assert cells(text, "S")[5] == "never"
    assert cells(text, "T")[5] == "1"


def test_higher(scaling):
    row = {"setting": "S", "tool": "T", "seconds": 0.5, "steps_per_second": 2.0}
    row |= {"ratio_to_higher": 0.25, "ratios_to_higher": [0.2, 0.3], "peak_bytes": 3e6}
    row |= {"warm_up_seconds": 4.0, "error_in_float64": {"images": 1e-12, "step_sizes": 2e-12}}
    failed = {"setting": "F", "tool": "T", "error": "exit 1: no such module"}
    text = scaling.higher(report(row, failed))
    assert cells(text, "S")[2:] == ["0.50", "0.25 (0.20-0.30)", "3", "4", "2e-12"]
    assert cells(text, "F")[2] == "exit 1: no such module"


def test_scale(scaling):
    row = {"table": "size", "series": "unroll", "inner_steps": 10, "storage": "device"}
    row |= {"image": [28, 1], "seconds": 0.5, "seconds_per_inner_step": 0.05, "peak_bytes": 7e6}
    row |= {"trajectory_bytes": 1.5e6, "peaks": [6e6, 9e6]}
    other = {**row, "series": "resolution", "image": [64, 3]}
    two = {"table": "processes", "processes": 2, "inner_steps_per_second": 30.0, "rounds": 3}
    two |= {"ratio_to_one": 1.9, "ratios_to_one": [1.8, 2.0]}
    with_pages = {**other, "table": "pages", "images_per_class": 1, "seconds_without": 1.0}
    with_pages |= {"ratio": 0.5, "ratios": [0.45, 0.55], "memory_ratio": 0.8, "rounds": 3}
    files = {"scale-cpu": report(row, other, with_pages, two)}
    text = scaling.sizes("unroll", "inner_steps")(files)
    assert cells(text, "10") == ["10", "device", "0.50", "50", "7 (6-9)", "1.5"]
    text = scaling.sizes("resolution", "image")(files)
    assert cells(text, "64 x 64")[0] == "64 x 64"
    assert text.count("64 x 64") == 1
    found = cells(scaling.pages(files), "64 x 64, 1 per class")
    assert found[1:] == ["1.0", "0.5", "0.50 (0.45-0.55)", "0.80", "3"]
    assert cells(scaling.processes(files), "2") == ["2", "30.0", "1.90 (1.80-2.00)", "3"]


def test_plan(scaling):
    row = {"plan": "P", "gpus": 8, "run": 200, "window": 60, "batch": 500, "real_batch": 2000}
    row |= {"forward_flops": 5e8, "flops_per_outer_step": 2e15, "memory_bytes": 9e10, "fits": False}
    row |= {"outer_steps_per_hour": [10.0, 30.0], "networks_per_hour": [80.0, 240.0]}
    row |= {"hours": [600.0, 2000.0]}
    hours, steps = scaling.plan(report(row, {**row, "gpus": 64})).split("\n\n*What")
    assert cells(hours, "P") == ["P", "8", "600-2,000", "10-30", "80-240"]
    # What a step is does not depend on the number of GPUs.
    assert steps.count("| P |") == 1
    assert cells(steps, "P")[1:] == ["200 / 60", "500 / 2000", "0.50", "2.00", "90 (too much)"]
