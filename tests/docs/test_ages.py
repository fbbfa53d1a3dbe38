"""The days of the files of results."""

import importlib
import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def ages(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return importlib.import_module("rendering.ages")


def test_every_file_of_results_has_its_day():
    results = ROOT / "docs" / "results"
    rows = json.loads((results / "dates.json").read_text())["rows"]
    there = {path.name for path in results.glob("*.json")} - {"dates.json", "published.json"}
    # After a new measurement: python docs/results_to_pages.py --dates
    assert {row["file"] for row in rows} == there


def test_the_option_writes_them(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    pages = importlib.import_module("results_to_pages")
    written = []
    monkeypatch.setattr(pages.ages, "write", written.append)
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("")
    assert pages.main(["--check", "--root", str(tmp_path)]) == 0
    assert written == []
    assert pages.main(["--check", "--dates", "--root", str(tmp_path)]) == 0
    assert written == [tmp_path / "docs" / "results"]


def test_days_are_those_that_files_say_or_of_their_last_commits(ages, tmp_path):
    def git(*words):
        author = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", *author, "-c", "commit.gpgsign=false", *words]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)

    git("init")
    for name, day in (("layers.json", "2026-01-02"), ("scale.json", "2026-03-04")):
        (tmp_path / name).write_text("{}")
        git("add", name)
        git("commit", "-m", name, "--date", f"{day}T12:00:00")
    # Put together from older rows.
    (tmp_path / "old.json").write_text('{"day": "2025-12-24"}')
    ages.write(tmp_path)
    report = json.loads((tmp_path / "dates.json").read_text())
    assert [row["day"] for row in report["rows"]] == ["2026-01-02", "2025-12-24", "2026-03-04"]
    assert ages.ages(report).splitlines()[2:] == [
        "| 2026-03-04 | scale |",
        "| 2026-01-02 | layers |",
        "| 2025-12-24 | old |",
    ]
