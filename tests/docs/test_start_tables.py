"""The tables of the start pages, from small files."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def start(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return importlib.import_module("rendering.start")


def run(name, init, distilled, **more):
    results = {"distilled": distilled, **more.pop("real", {})}
    return {
        "run": name,
        "network": "timm/dd_lenet",
        "model_args": {},
        "init": init,
        "statistics": None,
        "images": 10,
        "inner_steps": 5,
        "outer_steps": 1000,
        "real_batch_size": 64,
        "minutes": 3.4,
        "outer_steps_per_second": 5.0,
        "results": {
            name: {"mean": value, "accuracies": [value]} for name, value in results.items()
        },
        **more,
    }


def head_row(model, accuracies, trained_on="distilled images", pixels="png"):
    return {"model": model, "trained_on": trained_on, "pixels": pixels, "accuracies": accuracies}


def head_run(sources, seconds, device="CPU"):
    rows = []
    for model in ("lite/net_lite0", "lite/net_lite1", "lite/net_lite2"):
        rows += [
            head_row(model, [0.7]),
            head_row(model, [0.9], pixels="exact"),
            head_row(model, [0.3], "random real images", None),
            head_row(model, [0.8], "all real images", None),
        ]
    recipe = {"images_per_class": 1, "size": 112, "objective": "bilevel", "trial": "recipe"}
    about = {"sources": sources, "labels": "hard", "steps": 400, "device": device, **recipe}
    return {**about, "seconds_per_step": seconds, "rows": rows}


HEADS = {
    "runs": [
        head_run("lite0", 0.3),
        head_run("lite0", 0.003, device="a GPU"),
        head_run("lite0, lite1", 0.6),
    ]
}


def copied(steps, accuracy):
    names = [f"lite/net_lite{i}" for i in range(3)]
    rows = [{"model": n, "distilled, 8-bit": [accuracy], "random real": [0.2]} for n in names]
    return {"set": f"lite0+lite1_0_1_112_hard_bilevel_{steps}_recipe", "rows": rows}


AUGMENTED = {"sets": [copied(400, 0.6), copied(1600, 0.65)]}


def cells(text):
    """The cells of every line of a table but its head."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]


def test_one_line_per_fact(start):
    mnist = [
        run("a", "fixed", 0.8, real={"random real": 0.4, "full data": 0.98}),
        # Another network: the better one stands for this start.
        run("b", "fixed", 0.9, model_args={"norm_layer": "batchnorm2d"}, statistics="tracked"),
        run("c", "random", 0.7),
        # Smaller images in the storage of fewer are not as many images.
        run("small", "random", 0.95, images=40, stored_as=10),
    ]
    text = start.results({"mnist": mnist, "heads": HEADS, "heads-augmented": AUGMENTED})
    assert text.splitlines()[0] == "| distilled | accuracy | random real | all real | minutes |"
    alone, no_part, fixed, random = cells(text)
    # 0.3 s a step, 400 steps: two minutes. Runs on a GPU do not count.
    assert alone[1:] == ["70.0 ± 0.0 %", "30.0 ± 0.0 %", "80.0 ± 0.0 %", "2"]
    assert no_part[1:] == ["60.0 %", "20.0 %", "80.0 %", "4"]
    assert fixed == ["MNIST, 10 images, known initial weights", "90.0 %", "", "", "3"]
    assert random == ["MNIST, 10 images", "70.0 %", "", "", "3"]


def test_a_file_that_is_not_there_takes_its_lines_along(start):
    assert len(cells(start.results({"digits": [run("digits", "random", 0.9)]}))) == 1


def test_heads_of_the_recipe(start):
    lines = cells(start.recipe_of_heads({"heads": HEADS, "heads-augmented": AUGMENTED}))
    assert [line[1] for line in lines] == ["400"] * 3 + ["1,600"] * 3
    assert lines[0] == ["lite0, learned on", "400", "60.0 %", "20.0 %", "80.0 %"]
    assert lines[5][2] == "65.0 %"


def timed(tool, seconds, peak, ratio=None, **more):
    row = {"network": "ResNet-18, 20 images", "steps": 5, "tool": tool, "seconds": seconds}
    row |= {"peak_bytes": peak * 10**6, "ratio_to_higher": ratio, "ratios_to_higher": [0.5, 0.7]}
    return {**row, **more}


def test_beside_other_tools(start):
    rows = [
        timed("at first", 3.0, 300, 0.75),
        timed("long runs", 2.4, 500, 0.6),
        timed("higher", 4.0, 400),
        timed("torchopt", 3.9, 410),
    ]
    (line,) = cells(start.beside_tools({"rows": rows}))
    assert line[0] == "ResNet-18, 20 images, 5 steps"
    assert line[1:] == ["4.00", "3.90", "2.40", "0.60 (0.50-0.70)", "400", "500"]
    (line,) = cells(start.beside_tools({"rows": rows[:-1]}))
    assert line[1:4] == ["4.00", "", "2.40"]
    # Compiled where that was measured, and the longest unroll of each network.
    longer = [{**row, "steps": 20} for row in [*rows, timed("compiled", 2.0, 200, 0.5)]]
    assert start.beside_higher({"rows": rows + longer}) == (
        "- ResNet-18, 20 images, 20 training steps: 0.50 of the time of `higher`, "
        "0.50 of its memory"
    )
