"""`dd-plugin evaluate`: a table of networks on a set, its rows in files, and what it refuses."""

import json
import re
import warnings
from dataclasses import replace

import pytest
import torch

from dd_plugin.cli import main
from dd_plugin.evaluation import OtherArchitectureWarning, Scores
from dd_plugin.evaluation.training_images import BASELINES, TrainingImages
from dd_plugin.hub.reading import read_set
from dd_plugin.hub.record import Evaluation
from tests.distiller.toy import toy_distiller
from tests.evaluation.short import shorten
from tests.hub.toy import write_toy


@pytest.fixture(autouse=True)
def _not_for_long(monkeypatch):
    """Ordinary training takes fewer steps than it takes in earnest."""
    shorten(monkeypatch, 100)


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
    # One network says nothing about a difference.
    assert "points" not in printed.out
    exact, eight_bit = (f"{100 * row['mean']:.1f} % (1 network)" for row in rows[:2])
    assert f"timm/test_resnet, distilled images: {exact}\n" in printed.err
    assert f"timm/test_resnet, distilled images, 8-bit: {eight_bit}\n" in printed.err
    record = json.loads((run / "recipe.json").read_text())
    assert len(record["evaluations"]) == 8
    assert "`timm/test_resnet`" in (run / "README.md").read_text()
    assert str(real) not in json.dumps(record)
    # The same again replaces its rows.
    assert main([*words, "--no_baselines"]) == 0
    assert len(json.loads((run / "recipe.json").read_text())["evaluations"]) == 8


def test_what_is_asked_for_is_what_is_compared(run, real, monkeypatch):
    asked = []

    def compare(distilled, request, on_row):
        asked.append(request)
        return []

    monkeypatch.setattr("dd_plugin.hub.comparison.compare", compare)
    words = ["evaluate", str(run), "--dataset", str(real)]
    assert main([*words, "--device", "cpu"]) == 0
    given = ["--protocol", "standard", "--seed", "7", "--split", "train", "--train_split", "test"]
    assert main([*words, *given, "--device", "cpu:0", "--networks", "3"]) == 0
    assert main([*words, "--no_baselines", "--device", "cpu"]) == 0
    assert all(request.models == ["timm/dd_convnet"] for request in asked)
    assert [(len(r.test), r.train and len(r.train), str(r.test.device)) for r in asked] == [
        (30, 60, "cpu"),
        (60, 30, "cpu:0"),
        (30, None, "cpu"),
    ]
    assert [(r.protocol, r.seed, r.device, r.networks) for r in asked[:2]] == [
        ("auto", None, "cpu", 5),
        ("standard", 7, "cpu:0", 3),
    ]


def test_the_full_data_may_be_left_out(run, real, capsys):
    words = ["evaluate", str(run), "--dataset", str(real), "--networks", "1", "--no_full_data"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "| random real images " in printed
    assert "all real images" not in printed


def test_the_baselines_are_chosen_by_name(run, real, tmp_path, capsys):
    words = ["evaluate", str(run), "--dataset", str(real), "--networks", "1"]
    words += ["--output", str(tmp_path / "rows.json"), "--baselines"]
    assert main([*words, "hardest", "herding", "hard_labels"]) == 0
    # A set without learned labels has no row of hard ones, and the command says so.
    assert [row["trained_on"] for row in json.loads((tmp_path / "rows.json").read_text())] == [
        "distilled images",
        "distilled images",
        "real images by herding",
        "hardest real images by EL2N",
    ]
    assert "hardest real images by EL2N" in (run / "README.md").read_text()


def test_all_and_none_are_words_for_baselines(run, real, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "dd_plugin.hub.comparison.compare", lambda _, request, on_row: asked.append(request) or []
    )
    words = ["evaluate", str(run), "--dataset", str(real)]
    for given in ([], ["--baselines", "all"], ["--baselines", "none"], ["--baselines", "easiest"]):
        assert main([*words, *given]) == 0
    kinds = [None, [*BASELINES], [], [TrainingImages.EASIEST]]
    assert [request.kinds for request in asked] == kinds
    assert [request.train is None for request in asked] == [False, False, True, False]


def test_rows_are_written_as_they_come(run, real, tmp_path, monkeypatch):
    def cut_off(distilled, request, on_row):
        on_row(Evaluation(model="a", trained_on="b", mean=0.5, accuracies=(0.5,)))
        raise KeyboardInterrupt

    monkeypatch.setattr("dd_plugin.hub.comparison.compare", cut_off)
    words = ["evaluate", str(run), "--dataset", str(real), "--no_baselines"]
    assert main([*words, "--output", str(tmp_path / "rows.json")]) == 130
    assert json.loads((tmp_path / "rows.json").read_text())[0]["mean"] == 0.5
    assert json.loads((run / "recipe.json").read_text())["evaluations"][0]["model"] == "a"
    assert "| `a` " in (run / "README.md").read_text()


def test_rows_that_a_file_has_are_kept(run, real, tmp_path, monkeypatch):
    means = iter((0.1, 0.2, 0.3))

    def measured(distilled, request, on_row):
        rows = [
            replace(request.about.with_scores(Scores((next(means),))), model=model, trained_on="b")
            for model in request.models
        ]
        for row in rows:
            on_row(row)
        return rows

    monkeypatch.setattr("dd_plugin.hub.comparison.compare", measured)
    words = ["evaluate", str(run), "--dataset", str(real), "--no_baselines"]
    words += ["--output", str(tmp_path / "rows.json"), "--model", "timm/dd_convnet"]
    assert main([*words, "--model", "timm/test_resnet"]) == 0
    assert main(words) == 0
    rows = json.loads((tmp_path / "rows.json").read_text())
    found = [(row["model"], row["mean"]) for row in rows]
    assert found == [("timm/test_resnet", 0.2), ("timm/dd_convnet", 0.3)]


def a_row(model, trained_on, about):
    row = about.with_scores(Scores((0.5,)))
    return replace(row, model=model, trained_on=trained_on, protocol="standard")


def test_two_evaluations_at_once_keep_the_rows_of_both(run, real, tmp_path, monkeypatch):
    words = ["evaluate", str(run), "--dataset", str(real), "--no_baselines"]
    words += ["--output", str(tmp_path / "rows.json"), "--model"]

    def measured(distilled, request, on_row):
        first, last = (a_row(request.models[0], name, request.about) for name in ("first", "last"))
        on_row(first)
        if request.models[0] == "timm/dd_convnet":  # the other one comes and goes meanwhile
            assert main([*words, "timm/test_resnet"]) == 0
        on_row(last)
        return [first, last]

    monkeypatch.setattr("dd_plugin.hub.comparison.compare", measured)
    assert main([*words, "timm/dd_convnet"]) == 0
    expected = [
        ("timm/dd_convnet", "first"),
        ("timm/test_resnet", "first"),
        ("timm/test_resnet", "last"),
        ("timm/dd_convnet", "last"),
    ]
    noted = json.loads((run / "recipe.json").read_text())["evaluations"]
    for rows in (noted, json.loads((tmp_path / "rows.json").read_text())):
        assert [(row["model"], row["trained_on"]) for row in rows] == expected
    assert "`timm/test_resnet`" in (run / "README.md").read_text()


def test_a_set_that_is_distilled_anew_meanwhile_gets_no_rows(
    run, real, tmp_path, monkeypatch, capsys
):
    def measured(distilled, request, on_row):
        write_toy(run)
        on_row(a_row(request.models[0], "a", request.about))
        return []

    monkeypatch.setattr("dd_plugin.hub.comparison.compare", measured)
    words = ["evaluate", str(run), "--dataset", str(real), "--no_baselines"]
    assert main([*words, "--output", str(tmp_path / "rows.json")]) == 0
    assert f"warning: not written to {run}: " in capsys.readouterr().err
    assert read_set(run).record.evaluations == ()
    assert json.loads((tmp_path / "rows.json").read_text())[0]["trained_on"] == "a"


def test_a_folder_that_cannot_be_written_keeps_no_rows_back(run, real, monkeypatch, capsys):
    def full(folder, record):
        raise OSError("no room")

    monkeypatch.setattr("dd_plugin.hub.ledger.write_record", full)
    words = ["evaluate", str(run), "--dataset", str(real), "--no_baselines", "--networks", "1"]
    assert main(words) == 0
    printed = capsys.readouterr()
    assert "warning: not written to" in printed.err
    assert "| distilled images, 8-bit " in printed.out


def test_a_network_of_a_local_folder_is_trained_by_the_recipe_on_demand(tmp_path, real, capsys):
    import transformers

    torch.manual_seed(0)
    settings = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "num_labels": 3}
    network = transformers.AutoModelForImageClassification.from_config(
        transformers.ResNetConfig(num_channels=1, **settings)
    )
    network.save_pretrained(tmp_path / "net")
    options = {"inner_steps": 4, "max_steps": 1, "dtype": "float32", "dataset": str(real)}
    options |= {"model": str(tmp_path / "net"), "model_args": None}
    distiller = toy_distiller(tmp_path / "toy", **options)
    distiller.train()
    distiller.compare()
    distiller.save_model()
    words = ["evaluate", str(tmp_path / "toy"), "--dataset", str(real), "--no_baselines"]
    # By the configuration that the record has, and by the folder itself.
    assert main(words) == 0
    assert "transformers/resnet" in capsys.readouterr().out
    words += ["--model", str(tmp_path / "net"), "--protocol", "recipe", "--networks", "2"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OtherArchitectureWarning)
        assert main([*words, "--output", str(tmp_path / "rows.json")]) == 0
    row = json.loads((tmp_path / "rows.json").read_text())[0]
    assert row["protocol"] == "recipe"
    assert row["accuracies"] == list(distiller.results["distilled"].accuracies)
    noted = json.loads((tmp_path / "toy" / "recipe.json").read_text())["evaluations"]
    assert {row["model"] for row in noted} == {"net", "transformers/resnet"}
    assert str(tmp_path) not in (tmp_path / "toy" / "README.md").read_text()


def test_the_protocol_of_the_rows(run, real, tmp_path):
    def rows(*more):
        words = ["evaluate", str(run), "--dataset", str(real), "--networks", "2", "--device", "cpu"]
        out = tmp_path / "rows.json"
        assert main([*words, "--no_baselines", "--output", str(out), *more]) == 0
        found = json.loads(out.read_text())
        out.unlink()  # or its rows would be kept
        return found[0]

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
        (["SET", "--baselines", "herdin"], "--baselines must be auto, .* did you mean 'herding'"),
        (["SET", "--no_baselines", "--baselines", "easiest"], "exclude each other"),
        (["SET"], r"`dataset` must be given.*\(`--dataset` on the command line\)"),
    ],
)
def test_mistakes_are_one_line(run, real, words, message, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    words = [{"SET": str(run), "REAL": str(real)}.get(word, word) for word in words]
    assert main(["evaluate", *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert re.search(message, line)
