"""`dd-plugin compare`: runs side by side, from their folders."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dd_plugin.cli import main
from dd_plugin.cli.compare import differences, minutes_in
from tests.distiller.toy import toy_distiller


@pytest.fixture
def write_run(tmp_path):
    """Writes the folder of a run as far as the command reads it."""

    def write(name, accuracies=(), **settings):
        folder = tmp_path / name
        folder.mkdir()
        record = {
            "about": {"config": {"seed": 0, "inner_lr": 0.1, **settings}, "outer_steps": 10},
            "results": {"distilled": {"accuracies": list(accuracies)}},
            "protocol": {"dataset": "digits", "split": "test", "images": 20},
        }
        (folder / "recipe.json").write_text(json.dumps(record))
        lines = [{"step": 5, "outer_steps_per_second": 0.05}, {"step": 10, "eval": 1}]
        (folder / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
        return str(folder)

    return write


def cells(text):
    rows = [line[1:-1].split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows]


def test_settings_accuracies_and_minutes(write_run, capsys):
    # The mean of 0.8 and 0.9 is 0.85, the standard deviation of a sample 0.1 / sqrt(2) = 0.0707.
    one = write_run("one", [0.8, 0.9], output_dir="x")
    two = write_run("two", [0.5], inner_lr=0.2, output_dir="y")
    assert main(["compare", one + "/", two]) == 0
    out = capsys.readouterr().out
    rows = cells(out)
    assert ["", one, two] in rows
    assert ["inner_lr", "0.1", "0.2"] in rows
    assert ["accuracy: distilled", "85.0 ± 7.1 % (2)", "50.0 % (1)"] in rows
    assert ["minutes", "1.7", "1.7"] in rows  # 5 steps at 0.05 in a second
    assert not any(row[0] in ("seed", "output_dir") for row in rows)
    assert "different test images" not in out


def test_other_test_images_are_said(write_run, capsys):
    one, two = write_run("one", [0.8]), write_run("two", [0.9])
    record = Path(two, "recipe.json")
    record.write_text(record.read_text().replace('"images": 20', '"images": 30'))
    assert main(["compare", one, two]) == 0
    told = capsys.readouterr().out
    assert "of different test images: digits test 20; digits test 30" in told


def test_many_runs_are_rows(write_run, capsys):
    runs = [write_run(f"run{seed}", [0.5, 0.6], seed=seed) for seed in range(5)]
    assert main(["compare", *runs]) == 0
    rows = cells(capsys.readouterr().out)
    assert ["", "seed"] in rows
    for seed, run in enumerate(runs):
        assert [run, str(seed)] in rows


def test_as_json(write_run, capsys):
    one, two = write_run("one", [0.8, 0.9]), write_run("two", [0.5], seed=1)
    assert main(["compare", one, two, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report[one]["accuracies"] == {"distilled": [0.8, 0.9]}
    assert [report[run]["settings"] for run in (one, two)] == [{"seed": 0}, {"seed": 1}]


def test_a_finished_run_beside_one_that_was_not_finished(tmp_path, distilled, capsys):
    unfinished = tmp_path / "unfinished"
    toy_distiller(unfinished, max_steps=2, save_steps=1, inner_steps=3).train()
    assert main(["compare", str(distilled), str(unfinished)]) == 0
    rows = cells(capsys.readouterr().out)
    assert ["inner_steps", "4", "3"] in rows
    (steps,) = (row for row in rows if row[0] == "outer steps")
    assert steps[1:] == ["2", "2 of 2"]
    (accuracy,) = (row for row in rows if row[0] == "accuracy: distilled")
    assert accuracy[1].endswith("% (2)")
    assert accuracy[2] == "-"
    assert main(["compare", str(distilled), str(unfinished / "checkpoint-1")]) == 0
    assert ["outer steps", "2", "1 of 2"] in cells(capsys.readouterr().out)


def test_the_newest_checkpoint_stands_for_an_interrupted_run(tmp_path, capsys, write_run):
    for step in (9, 10):
        folder = tmp_path / "stopped" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        evaluation = {"step": 9, "eval_accuracy_mean": 0.25, "eval_accuracy_std": 0.01}
        state = {"global_step": step, "log_history": [{**evaluation, "eval_networks": 3.0}]}
        content = {"state": state, "config": {"seed": 7, "max_steps": 50}}
        (folder / "state.json").write_text(json.dumps(content))
    assert main(["compare", write_run("one"), str(tmp_path / "stopped")]) == 0
    rows = cells(capsys.readouterr().out)
    assert ["seed", "0", "7"] in rows
    assert ["outer steps", "10", "10 of 50"] in rows
    assert ["accuracy at its last evaluation", "-", "25.0 ± 1.0 %"] in rows


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "holds no run: neither a recipe.json nor a checkpoint"),
        ("{", "recipe.json cannot be read"),
        ("[]", "recipe.json must hold an object, got list"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, write_run, capsys, content, told):
    folder = tmp_path / "bad"
    folder.mkdir()
    if content is not None:
        (folder / "recipe.json").write_text(content)
    assert main(["compare", write_run("one"), str(folder)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert told in captured.err
    assert captured.err.count("\n") == 1


def test_a_run_is_not_compared_with_itself(write_run, capsys):
    one = write_run("one")
    assert main(["compare", one, one + "/"]) == 2
    assert "two or more runs" in capsys.readouterr().err


def test_records_of_strangers_do_no_harm(write_run, capsys):
    one, two = write_run("one", [0.5]), write_run("two", seed="\x1b[31m|", inner_lr=[1] * 99)
    record = json.loads(Path(two, "recipe.json").read_text())
    record |= {"results": {"distilled": {"accuracies": ["x"]}, "b": 3}, "protocol": 4}
    Path(two, "recipe.json").write_text(json.dumps(record))
    assert main(["compare", one, two]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_a_setting_that_one_run_does_not_name_says_nothing():
    assert differences([{"a": 1, "b": 2, "c": 3}, {"b": 3, "c": 3, "d": 4}]) == ["b"]


def test_what_a_machine_measured_is_no_setting():
    assert differences([{"chosen": {"storage": 1}}, {"chosen": {"storage": 2}}]) == []


def test_minutes_are_those_between_the_lines():
    speeds = [{"step": 30, "outer_steps_per_second": 0.5}, {"step": 30, "eval_accuracy_mean": 0.5}]
    speeds += [{"step": 60, "outer_steps_per_second": 0.25}]
    assert minutes_in(speeds) == pytest.approx((60 + 120) / 60)
    assert minutes_in([{"step": 3, "outer_steps_per_second": 0}]) is None


def test_torch_is_not_imported(write_run):
    runs = [write_run("one", [0.5]), write_run("two", [0.5])]
    code = f"""
import sys
from dd_plugin.cli import main
main(["compare", *{runs!r}])
print(*({{"torch", "numpy", "timm", "transformers"}} & set(sys.modules)), file=sys.stderr)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert result.stderr.strip() == ""
