"""What stands on the pages is what the JSON files hold."""

import importlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = [
    {
        "images": 10,
        "bytes": 2_000_000,
        "seconds": dict.fromkeys(
            ("write", "push", "push_again", "snapshot", "read", "load", "stream"), 0.25
        ),
    }
]
PAGE = "before\n\n<!-- hub-cpu -->\nold\n<!-- /hub-cpu -->\n\nafter\n"


@pytest.fixture
def script(monkeypatch):
    """The script as a module, found as it finds its own parts: in the folder it lies in."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return importlib.import_module("results_to_pages")


@pytest.fixture
def site(tmp_path, script, monkeypatch):
    """A site of one page and one file of results; returns what the command says of it."""
    (tmp_path / "docs" / "results").mkdir(parents=True)
    (tmp_path / "README.md").write_text("# Title\n")
    (tmp_path / "docs" / "page.md").write_text(PAGE)
    write(tmp_path, ROWS)
    monkeypatch.setattr(script, "draw", lambda results: None)
    return tmp_path


def write(site, rows):
    path = site / "docs" / "results" / "hub-cpu.json"
    path.write_text(json.dumps({"environment": {"torch": "2.15"}, "rows": rows}))


def test_no_table_is_stale(script):
    assert script.main(["--check"]) == 0


def test_a_table_is_filled_and_a_changed_file_noticed(script, site, capsys):
    command = ["--root", str(site)]
    assert script.main([*command, "--check"]) == 1
    assert "page.md is stale" in capsys.readouterr().err
    assert (site / "docs" / "page.md").read_text() == PAGE
    assert script.main(command) == 0
    text = (site / "docs" / "page.md").read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "\nold\n" not in text
    assert "| 10 | 2.0 | 0.25 s |" in text
    # Where the figures are from, and what wrote them.
    assert "[hub-cpu.json](results/hub-cpu.json), written by `python -m tests.benchmarks" in text
    assert script.main([*command, "--check"]) == 0
    write(site, [{**ROWS[0], "images": 11}])
    assert script.main([*command, "--check"]) == 1


def test_a_missing_file_leaves_the_page_alone(script, site, capsys):
    (site / "docs" / "results" / "hub-cpu.json").unlink()
    assert script.main(["--root", str(site)]) == 1
    message = capsys.readouterr().err
    assert "page.md: <!-- hub-cpu --> needs hub-cpu.json, which `python -m tests" in message
    assert (site / "docs" / "page.md").read_text() == PAGE
    # A page that says so itself holds no figure without a file.
    page = PAGE.replace("old", script.NOT_YET)
    (site / "docs" / "page.md").write_text(page)
    assert script.main(["--root", str(site), "--check"]) == 0
    assert (site / "docs" / "page.md").read_text() == page


def test_a_marker_without_its_counterpart_is_an_error(script, site):
    (site / "docs" / "page.md").write_text("<!-- hub-cpu -->\n")
    with pytest.raises(ValueError, match="must have its counterpart"):
        script.main(["--root", str(site)])


def run(name, init, accuracies, **more):
    mean = sum(accuracies) / len(accuracies)
    return {
        "run": name,
        "network": "timm/dd_convnet",
        "model_args": {"norm_layer": "batchnorm2d", "width": 4},
        "init": init,
        "statistics": "tracked",
        "images": 10,
        "inner_steps": 5,
        "outer_steps": 1000,
        "real_batch_size": 64,
        "results": {"distilled": {"mean": mean, "accuracies": accuracies}},
        **dict.fromkeys(("images_per_second", "peak_memory_mb", "minutes"), 1.0),
        "outer_steps_per_second": 10.0,
        **more,
    }


def test_runs_of_one_recipe_are_one_line(script):
    rows = [
        run("a", "random", [0.80, 0.90]),
        # Arguments in another order are the same.
        run(
            "a_seed1",
            "random",
            [0.88, 0.90],
            model_args={"width": 4, "norm_layer": "batchnorm2d"},
        ),
        run("b", "random", [0.70, 0.74], inner_steps=7),
        run("c", "fixed", [0.95]),
    ]
    lines = script.quality.runs(rows).splitlines()[2:]
    # Means 0.85 and 0.89: 0.87, and 0.04 / sqrt(2) = 0.028 apart.
    accuracies = [[cell.strip() for cell in line.split("|")][3] for line in lines]
    assert accuracies == ["87.0 ± 2.8 %", "72.0 ± 2.8 %", "95.0 %"]
    # The start page has the better of two recipes of one kind, whatever the order of the file.
    best = script.quality.selection({"mnist": rows[::-1]}).splitlines()[2:]
    assert [line.split("|")[3].strip() for line in best] == ["95.0 %", "87.0 ± 2.8 %"]
    # Another network is another line, also where it is behind.
    rows.append(run("d", "fixed", [0.93], model_args={}, statistics=None))
    best = script.quality.selection({"mnist": rows}).splitlines()[2:]
    assert [line.split("|")[3].strip() for line in best] == ["87.0 ± 2.8 %", "95.0 %", "93.0 %"]


def test_the_start_page_has_what_others_published_beside(script):
    small = run("a", "random", [0.9], images=40, stored_as=10, results=None)
    small["results"] = {
        "distilled": {"mean": 0.9, "accuracies": [0.9]},
        "random real": {"mean": 0.4, "accuracies": [0.4]},
    }
    other = {"data": "MNIST", "init": "random", "stored_as": 10, "accuracy": 94.2}
    other |= {"name": "IDC", "url": "https://example.org"}
    old = run("b", "fixed", [0.8], outer_steps=1800)
    del old["minutes"]  # 1,800 steps, ten in a second
    reports = {"mnist": [small, old], "published": {"rows": [other]}}
    cells = [line.split(" | ")[2:6] for line in script.quality.selection(reports).splitlines()[2:]]
    assert cells[0] == ["90.0 %", "40.0 %", "94.2 % ([IDC](https://example.org))", "1"]
    assert cells[1][2:] == ["", "3"]


def test_small_images_are_told_with_their_storage(script):
    rows = [run("small", "random", [0.9], images=40, stored_as=10), run("a", "fixed", [0.8])]
    for text in (script.quality.runs(rows), script.quality.selection({"mnist": rows})):
        assert [line.split("|")[2].strip() for line in text.splitlines()[2:]] == [
            "40, stored as 10",
            "10",
        ]


def test_a_network_is_one_line_with_what_was_measured(script):
    def row(trained_on, pixels, accuracies, model="timm/net", protocol="standard"):
        named = {"set": "runs/mine", "model": model, "trained_on": trained_on, "pixels": pixels}
        return {**named, "protocol": protocol, "accuracies": accuracies}

    rows = [
        row("distilled images", "exact", [0.9, 0.9], "folder", "recipe"),
        row("distilled images", "exact", [0.5, 0.5]),
        row("random real images", None, [0.4, 0.4]),
    ]
    assert script.quality.architectures(rows).splitlines() == [
        "| set | network | trained | distilled images | as many random real images | networks |",
        "|---|---|---|---:|---:|---:|",
        "| mine | folder | by the recipe | 90.0 ± 0.0 % |  | 2 |",
        "| mine | net | as on real images | 50.0 ± 0.0 % | 40.0 ± 0.0 % | 2 |",
    ]


SETTING = {"init": "random", "images_per_class": 1, "steps": 1300, "inner_steps": 12, "width": 32}


def test_cases_are_sorted_and_their_seeds_counted(script):
    rows = [
        {"case": "worse", "seed": 0, "accuracies": [0.5, 0.5], **SETTING},
        {"case": "better", "seed": 0, "accuracies": [0.6, 0.7], "seconds": 1.0, **SETTING},
        {"case": "better", "seed": 1, "accuracies": [0.7, 0.8], "seconds": 2.0, **SETTING},
        {"case": "better", "seed": 0, "accuracies": [0.9], **SETTING, "images_per_class": 10},
    ]
    text = script.quality.cases({"rows": rows})
    # Means over networks 0.65 and 0.75; networks of a seed are 0.1 / sqrt(2) apart.
    assert "| better | 70.0 ± 7.1 % | 2 | 7.1 |\n| worse | 50.0 % | 1 | 0.0 |" in text
    heading = "**random start, 10 images per class**, 1,300 outer steps, 12 inner steps, width 32:"
    assert heading in text
    assert "| better | 90.0 % | 1 |  |" in text
    other = {"network": "resnet18", "inner_lr": 0.1, "inner_momentum": 0.9}
    text = script.quality.cases({"rows": [rows[0], {**other, **rows[0]}, {**rows[1], **other}]})
    assert text.count("**random start, 1 image per class**") == 1
    # The order of the fields in a row means nothing.
    assert text.count("**resnet18, random start, 1 image per class**") == 1
    assert "12 inner steps, step sizes from 0.1, momentum 0.9, width 32:" in text


def test_what_a_file_says_of_its_command_goes_first(script):
    block = script.block_of("policies-mnist")
    assert script.command_of({"command": "python a.py"}, block) == "python a.py"
    assert script.command_of({}, block).endswith("batchnorm_policies.py")


def test_a_file_of_unknown_layout_has_a_table_all_the_same(script):
    rows = [
        {"case": "a", "seconds": 0.123456, "parts": {"x": 1}},
        {"case": "b|c", "accuracies": [0.5, 0.6]},
    ]
    lines = script.markdown.generic({"rows": rows}).splitlines()
    assert lines[0] == "| case | seconds | accuracy |"
    assert lines[2:] == ["| a | 0.123 |  |", r"| b\|c |  | 55.0 ± 7.1 % |"]


def test_a_fuzz_says_how_many_cases_and_what_was_refused(script):
    report = {
        "count": 1200,
        "status": {"passed": 1199, "refused": 1},
        "worst": 3e-12,
        "sensitive": 7,
        "torch": "2.15",
        "ways": {"reverse": {"cases": 1, "worst": 1e-15}, "mixed": {"cases": 2, "worst": 3e-12}},
        "refusals": {"mixed: one: reason": 2, "mixed: another": 3},
    }
    lines = script.costs.fuzz(report).splitlines()
    assert lines[0].startswith("1,200 random cases: 1,199 passed, 0 failed, 1 refused.")
    assert lines[4:6] == ["| `mixed` | 2 | 3.0e-12 | 5 |", "| `reverse` | 1 | 1.0e-15 | 0 |"]
    assert lines[-1].startswith("In 7 cases")
