"""What stands on the pages is what the JSON files hold."""

import html
import importlib
import json
import re
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
    module = importlib.import_module("results_to_pages")
    for name in ("costs", "heads", "quality"):
        rendering = importlib.import_module(f"rendering.{name}")
        monkeypatch.setattr(module, name, rendering, raising=False)
    return module


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
    # A caption, the table, and on one line below it the machine, the file and the command.
    assert "*Seconds to write, publish and read a set, by its number of images.*\n\n|" in text
    assert "| push | 0.25 s |" in text
    assert "torch 2.15. From [hub-cpu.json]" in text
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


def cells(text):
    """The cells of every table of a text, without its head."""
    tables = re.findall(r"(?:^\|.*\|$\n?)+", text, flags=re.MULTILINE)
    lines = [table.splitlines()[2:] for table in tables]
    return [[[cell.strip() for cell in line.split("|")[1:-1]] for line in own] for own in lines]


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
    reached, speeds = cells(script.quality.runs(rows))
    # Means 0.85 and 0.89: 0.87, and 0.04 / sqrt(2) = 0.028 apart.
    assert [line[2] for line in reached] == ["87.0 ± 2.8 %", "72.0 ± 2.8 %", "95.0 %"]
    # What they are stands in a table of its own.
    network = "dd_convnet, BatchNorm, tracked"
    assert speeds[1] == ["b", network, "random", "7 x 1,000", "10.00", "1", "1 MB"]
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
        assert [line[1] for line in cells(text)[0]] == ["40, stored as 10", "10"]


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
        "| set | network | trained | distilled images | as many random real images |",
        "|---|---|---|---:|---:|",
        "| mine | folder | by the recipe | 90.0 ± 0.0 % |  |",
        "| mine | net | as on real images | 50.0 ± 0.0 % | 40.0 ± 0.0 % |",
        "",
        "Means and standard deviations of 2 networks.",
    ]


SETTING = {"init": "random", "images_per_class": 1, "steps": 1300, "inner_steps": 12, "width": 32}


def case(name, seed, *accuracies, **more):
    return {"case": name, "seed": seed, "accuracies": list(accuracies), **SETTING, **more}


def test_a_setting_of_many_cases_is_a_column(script):
    rows = [
        case("worse", 0, 0.5, 0.5),
        case("better", 0, 0.6, 0.7),
        case("better", 1, 0.7, 0.8, seconds=2.0),
        case("tracked, also normalised with in training", 0, 0.4),
        *(case(name, 0, 0.9, images_per_class=10) for name in ("worse", "better", "other")),
    ]
    text = script.quality.cases({"rows": rows})
    # Means over networks 0.65 and 0.75; the best of the setting with most cases first.
    assert cells(text) == [
        [
            ["better", "70.0 ± 7.1 % (2)", "90.0 % (1)"],
            ["worse", "50.0 % (1)", "90.0 % (1)"],
            ["tracked, also used in training", "40.0 % (1)", ""],
            ["other", "", "90.0 % (1)"],
        ]
    ]
    assert "| treatment | random start, 1 image per class | random start, 10 images per cl" in text
    assert "Random start, 1 image per class: 1,300 outer steps, 12 inner steps, width 32;" in text
    # Networks of a seed are 0.1 / sqrt(2) apart.
    assert text.endswith("differ by 0.0 to 7.1 points (standard deviation).")


def test_a_setting_of_two_cases_is_a_line(script):
    other = {"network": "resnet18", "inner_lr": 0.1, "inner_momentum": 0.9}
    # The order of the fields in a row means nothing.
    rows = [case("a", 0, 0.5), case("a", 0, 0.6, **other), {**other, **case("b", 0, 0.7)}]
    small = "random start, 1 image per class; 1,300 outer steps, 12 inner steps"
    assert sorted(cells(script.quality.cases({"rows": rows}))[0]) == [
        [f"{small}, width 32", "50.0 % (1)", ""],
        [
            f"resnet18, {small}, step sizes from 0.1, momentum 0.9, width 32",
            "60.0 % (1)",
            "70.0 % (1)",
        ],
    ]


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
    assert lines[2:4] == ["| `mixed` | 2 | 3.0e-12 | 5 |", "| `reverse` | 1 | 1.0e-15 | 0 |"]
    assert lines[-1].startswith("1,200 random cases: 1,199 passed, 0 failed, 1 refused.")
    assert "In 7 cases" in lines[-1]


def test_a_converted_layer_has_one_line_per_pass(script):
    ratios = {"cpu": {"median": 1.0, "low": 0.9, "high": 1.1}}
    one = {"model": "m", "pass": "train", "compiled": True, "rounds": 5, "device": "cpu"}
    one |= {"seconds": {"original": {"cpu": 0.5}}, "batch": 4, "image": 224, "threads": 1}
    one |= {"ratios": dict.fromkeys(("original again", "learned", "tracked"), ratios)}
    report = {"environment": {"torch": "2.15"}, "cases": [one | {"device_name": "processor"}]}
    text = script.costs.layers(report)
    ratio = "1.000 (0.900-1.100)"
    assert cells(text) == [[["m", "train, compiled", "500.0 ms", ratio, ratio, ratio, "≤ 1.05"]]]
    assert text.endswith("at 224 x 224, threads: 1, processor; 5 to 5 rounds per case.")


def test_heads_are_told_with_the_probe_on_all_images(script):
    run = {"sources": "a", "labels": "hard", "seed": 0, **script.heads._RECIPE, "rows": []}
    for (words, pixels), name in script.heads._TRAINED_ON.items():
        value = {"distilled, 8-bit": 0.6, "all 6,000": 0.8}.get(name, 0.3)
        row = {"model": "lite_a", "trained_on": words, "pixels": pixels, "accuracies": [value]}
        run["rows"].append(row)
    expected = ["a; hard labels", "a", "1", "60.0", "75 % of 80.0", "30.0", "30.0"]
    assert cells(script.heads.one_image({"runs": [run]})) == [[expected]]


BENCHMARKS = sorted((ROOT / "docs" / "benchmarks").glob("*.md"))


@pytest.mark.parametrize("page", BENCHMARKS, ids=lambda page: page.stem)
def test_tables_are_narrow_and_say_what_they_show(page):
    text = page.read_text(encoding="utf-8")
    for table in re.finditer(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE):
        head, rule, *_ = table[0].splitlines()
        assert rule.count("|") <= 8, head
        above = text[: table.start()].rstrip().splitlines()[-1]
        # The list of the pages alone has no caption.
        assert page.stem == "index" or above.startswith("*"), head
        assert page.stem == "index" or above.endswith(".*"), head


PLOTS = sorted((ROOT / "docs" / "results").glob("*.svg"))


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.stem)
def test_a_plot_says_what_its_file_holds_and_is_legible(plot, script):
    stem = plot.stem.removesuffix("-dark")
    report = json.loads(plot.with_name(f"{stem}.json").read_text(encoding="utf-8"))
    title = script.titles.title_of(stem, report)
    drawn = plot.read_text(encoding="utf-8")
    # The lines of a title follow each other.
    texts = [html.unescape(piece) for piece in re.findall(r"<text[^>]*>([^<]*)</text>", drawn)]
    assert title
    assert title in " ".join(texts)
    # No wider than what a phone shows with letters of eleven pixels.
    assert float(re.search(r'width="([\d.]+)pt"', drawn)[1]) <= 346
    sizes = re.findall(r"font-size: ([\d.]+)px", drawn)
    assert sizes
    assert min(map(float, sizes)) >= 11


def test_titles_are_computed(script):
    titles = script.titles
    rows = [
        case(titles.DEFAULT_CASE, 0, 0.6),
        case(titles.DEFAULT_CASE, 1, 0.7),
        case("InstanceNorm", 0, 0.62),
        case("InstanceNorm", 1, 0.61),
        case("frozen", 0, 0.3),
    ]
    said = titles.title_of("policies-mnist", {"rows": rows})
    # Means 65 and 61.5; ahead on the second of two seeds.
    assert said.endswith("3.5 points ahead of InstanceNorm, on 1 of 2 seeds")
    controls = [case(name, 0, value) for name, value in (("neither", 0.5), ("ZCA", 0.5))]
    assert titles.controls({"rows": controls}).startswith("Neither whitening nor")
    controls.append(case("both", 0, 0.53))
    assert "gain 3.0 points at most" in titles.controls({"rows": controls})
    runs = [run("a", "fixed", [0.9]), run("b", "random", [0.8], images=40, stored_as=9)]
    assert titles.curves(runs) == (
        "40 small images reach 80.0 % in 1 minutes from a random start, "
        "10 images reach 90.0 % in 1 minutes from a fixed start"
    )
    assert titles.title_of("hub-cpu", {}) == ""
