"""The tables of what was tried on a GPU, from small files."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MACHINES = [{"versions": {"higher": "0.2"}, "code": code} for code in ("a", "b", "b")]
ABOUT = {"hardware": "card", "torch": "2.11", "machines": MACHINES}


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return importlib.import_module("rendering.gpu")


def cells(text, first):
    """The cells of the line of a table that begins with a cell."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def engine(how, **more):
    return {"check": "hypergradient", "model": "m", "how": how, "dtype": "float32", **more}


def test_right(gpu):
    passed = {"ok": True, "limit": 1e-4}
    layer = {"check": "layer", "how": "eager"}
    rows = [
        {"case": engine("eager"), "relative_error": 1e-6, **passed},
        {"case": engine("eager", optimizer="adam"), "relative_error": 3e-6, **passed},
        {"case": layer, "errors": {"output": 1.0, "gradient": 2.0}, "ok": False, "limit": 0.1},
        {"case": {"check": "layer", "how": "compiled"}, "error": "Unsupported"},
        {"case": {"check": "travel"}, "unfinished": "no time"},
    ]
    missing = [{"check": "travel"}, engine("eager", storage="host")]
    text = gpu.right({**ABOUT, "rows": rows, "not_run": missing})
    assert text.endswith(
        "\n\n2 checks passed, 2 failed, 2 did not run. card, torch 2.11, higher 0.2, 2 runs."
    )
    kind = "hypergradient, eager, float32"
    assert cells(text, kind)[1:] == ["2", "", "", "3.0e-06", "0.0001"]
    assert cells(text, f"{kind}, host storage")[1:] == ["", "", "1", "", ""]
    assert cells(text, "layer, eager")[1:] == ["0", "1", "", "2.0e+00", "0.1"]
    assert cells(text, "layer, compiled")[1:] == ["0", "1", "", "", ""]
    assert cells(text, "a set saved on the GPU, read without")[1:] == ["", "", "1", "", ""]


def test_columns_of_nothing_are_left_out(gpu):
    passed = {"case": engine("eager"), "relative_error": 1e-6, "ok": True, "limit": 1e-4}
    text = gpu.right({**ABOUT, "rows": [passed], "not_run": []})
    assert text.startswith("| check | passed | worst error | limit |")
    assert cells(text, "hypergradient, eager, float32")[1:] == ["1", "1.0e-06", "0.0001"]


def test_fast_and_recorded(gpu):
    def time(tool, steps, seconds, **more):
        case = {"check": "time", "model": "m", "tool": tool, "steps": steps}
        return {"case": case, "seconds": seconds, "peak_bytes": 2e9, **more}

    def launches(count):
        case = {"check": "launches", "model": "m", "tool": "ours"}
        return {"case": case, "launches_of_a_step": count}

    before = [time("ours", 9, 1.5, ratio_to_higher=1.5), time("higher", 9, 1), launches(700)]
    report = {
        **ABOUT,
        "rows": [time("ours", 9, 0.5, ratio_to_higher=0.25), time("higher", 9, 2), launches(28)],
        "replaced": before,
        "not_run": [time("ours", steps, 0)["case"] for steps in (20, 40)],
    }
    text = gpu.fast(report)
    assert cells(text, "m, ours")[1:] == ["9", "0.500", "0.25", "", "2,000", "28 (was 700)"]
    assert cells(text, "m, higher")[1:] == ["9", "2.000", "1", "", "2,000", ""]
    assert text.endswith("2 runs. Did not run: m, ours (K = 20, K = 40).")
    assert cells(gpu.recorded(report), "m, ours")[1:] == ["9", "1.500 (1.50)", "0.500 (0.25)"]
    assert "higher" not in gpu.recorded(report)


def test_accuracy(gpu):
    def row(recipe, step, seconds, mean):
        named = {"case": {"recipe": recipe, "step": step}, "step": step, "seconds": seconds}
        return {**named, "accuracy_mean": mean, "accuracy_std": 0.01}

    rows = [row("a", 10, 5.0, 0.4), row("a", 2000, 60.0, 0.6), row("a", 2500, 80.0, 0.5)]
    text = gpu.accuracy({**ABOUT, "rows": [*rows, {"case": {"recipe": "b"}}]})
    # The best and the last evaluation of a recipe.
    expected = ["3", "60.0 ± 1.0", "2,000", "60", "50.0 ± 1.0", "80"]
    assert cells(text, "a")[1:] == expected
    assert "| b |" not in text
