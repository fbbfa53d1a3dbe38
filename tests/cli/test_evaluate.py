"""`dd-plugin evaluate` and `dd-plugin export`."""

import json
import re

import pytest

from dd_plugin.cli import main
from tests.distiller.toy import toy_dataset, toy_distiller


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    import datasets

    folder = tmp_path_factory.mktemp("real")
    splits = {"train": toy_dataset(), "test": toy_dataset(30, 1)}
    datasets.DatasetDict(splits).save_to_disk(folder)
    return folder


@pytest.fixture
def run(tmp_path, real):
    options = {"inner_steps": 4, "max_steps": 2, "dtype": "float32", "dataset": str(real)}
    distiller = toy_distiller(tmp_path / "toy", **options)
    distiller.train()
    distiller.compare()
    distiller.save_model()
    return tmp_path / "toy"


def test_a_table_of_networks_is_printed_and_stored(run, real, tmp_path, capsys):
    words = ["evaluate", str(run), "--dataset", str(real), "--networks", "1"]
    words += ["--output", str(tmp_path / "rows.json"), "--model", "timm/test_resnet"]
    assert main([*words, "--model", "timm/dd_convnet"]) == 0
    printed = capsys.readouterr()
    rows = json.loads((tmp_path / "rows.json").read_text())
    kinds = [(row["model"], row["trained_on"], row["protocol"], row["pixels"]) for row in rows]
    assert kinds == [
        (model, *kind)
        for model, how in (("timm/test_resnet", "standard"), ("timm/dd_convnet", "recipe"))
        for kind in (
            ("distilled images", how, "exact"),
            ("distilled images", how, "png"),
            ("random real images", "standard", None),
            ("all real images", "standard", None),
        )
    ]
    assert all(len(row["accuracies"]) == 1 and row["images"] == 30 for row in rows)
    # On all images a network learns this task; the table has its accuracy.
    assert rows[3]["mean"] > 0.9
    assert f"{100 * rows[3]['mean']:.1f}" in printed.out
    lost = 100 * (rows[0]["mean"] - rows[1]["mean"])
    assert f"the 8-bit PNG images lose {lost:.2f} points" in printed.out
    record = json.loads((run / "recipe.json").read_text())
    assert len(record["evaluations"]) == 8
    assert "`timm/test_resnet`" in (run / "README.md").read_text()
    assert str(real) not in json.dumps(record)
    # The same again replaces its rows.
    assert main([*words, "--no_baselines"]) == 0
    assert len(json.loads((run / "recipe.json").read_text())["evaluations"]) == 8


def test_what_is_asked_for_is_what_is_compared(run, real, monkeypatch):
    asked = []

    def compare(distilled, models, test, train, **options):
        asked.append((models, len(test), train and len(train), str(test.device), options))
        return []

    monkeypatch.setattr("dd_plugin.hub.comparison.compare", compare)
    words = ["evaluate", str(run), "--dataset", str(real)]
    assert main([*words, "--device", "cpu"]) == 0
    given = ["--protocol", "standard", "--seed", "7", "--split", "train", "--train_split", "test"]
    assert main([*words, *given, "--device", "cpu:0", "--networks", "3"]) == 0
    assert main([*words, "--no_baselines", "--device", "cpu"]) == 0
    assert [call[:4] for call in asked] == [
        (["timm/dd_convnet"], 30, 60, "cpu"),
        (["timm/dd_convnet"], 60, 30, "cpu:0"),
        (["timm/dd_convnet"], 30, None, "cpu"),
    ]
    names = ("protocol", "seed", "device", "networks")
    assert [[options[name] for name in names] for *_, options in asked[:2]] == [
        ["auto", None, "cpu", 5],
        ["standard", 7, "cpu:0", 3],
    ]


def test_the_full_data_may_be_left_out(run, real, capsys):
    words = ["evaluate", str(run), "--dataset", str(real), "--networks", "1", "--no_full_data"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "| random real images " in printed
    assert "all real images" not in printed


def test_rows_are_written_as_they_come(run, real, tmp_path, monkeypatch):
    def cut_off(*args, on_row, **options):
        on_row({"model": "a", "trained_on": "b", "mean": 0.5})
        raise KeyboardInterrupt

    monkeypatch.setattr("dd_plugin.hub.comparison.compare", cut_off)
    words = ["evaluate", str(run), "--dataset", str(real), "--no_baselines"]
    assert main([*words, "--output", str(tmp_path / "rows.json")]) == 130
    assert json.loads((tmp_path / "rows.json").read_text())[0]["mean"] == 0.5


def test_the_protocol_of_the_rows(run, real, tmp_path):
    def rows(*more):
        words = ["evaluate", str(run), "--dataset", str(real), "--networks", "2", "--device", "cpu"]
        out = tmp_path / "rows.json"
        assert main([*words, "--no_baselines", "--output", str(out), *more]) == 0
        return json.loads(out.read_text())[0]

    noted = json.loads((run / "recipe.json").read_text())["results"]["distilled"]["accuracies"]
    assert rows("--seed", "0")["accuracies"] == noted  # that of the run
    standard = rows("--protocol", "standard")
    assert standard["protocol"] == "standard"
    assert standard["accuracies"] != noted


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none"], "no such data set on the Hub|could not be fetched"),
        (["SET", "--networks", "0"], "--networks must be at least 1, got 0"),
        (["SET", "--model", "timm/nothing", "--dataset", "REAL"], "timm has no architecture"),
        (["SET", "--dataset", "./none"], "there is no folder"),
    ],
)
def test_mistakes_are_one_line(run, real, words, message, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    words = [{"SET": str(run), "REAL": str(real)}.get(word, word) for word in words]
    assert main(["evaluate", *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert re.search(message, line)


def test_export(run, tmp_path, capsys):
    assert main(["export", str(run), str(tmp_path / "images")]) == 0
    assert len(list((tmp_path / "images").rglob("*.png"))) == 3
    assert main(["export", str(run), str(tmp_path / "ranking"), "--format", "dd_ranking"]) == 0
    assert (tmp_path / "ranking" / "images.pt").exists()
    assert main(["export", str(run), str(tmp_path / "x"), "--dataset", "CIFAR10"]) == 2
    assert main(["export", str(run), str(tmp_path / "images")]) == 2
    assert "dd-plugin export: error:" in capsys.readouterr().err
