"""What `Distiller.save_model` writes, and what it leaves alone."""

import errno
import json
import shlex

import pytest
from huggingface_hub import HfApi

from dd_plugin import DistilledDataset
from dd_plugin.distiller import report
from dd_plugin.distiller.evaluating import Evaluator
from tests.distiller.toy import toy_distiller


@pytest.fixture
def distiller(tmp_path):
    made = toy_distiller(tmp_path / "run", max_steps=1)
    made.train()
    return made


def files_of(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", ["README.md", "log.jsonl", "results.md", "curve.png"])
def test_files_of_the_user_s_in_another_folder_are_not_replaced(distiller, tmp_path, name):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / name).write_text("mine")
    before = files_of(mine)
    with pytest.raises(ValueError, match=rf"`output_dir` must .*{name}.*; choose another folder"):
        distiller.save_model(mine)
    assert files_of(mine) == before


def test_another_folder_is_written_again_and_again(distiller, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    distiller.compare()
    distiller.save_model(other)
    assert (other / "results.md").exists()
    distiller.results.clear()
    distiller.save_model(str(other))
    assert not (other / "results.md").exists()
    assert (other / "notes.txt").read_text() == "mine"
    DistilledDataset.from_pretrained(other)


def test_the_run_s_own_folder_was_looked_at_when_it_began(distiller, tmp_path, monkeypatch):
    own = tmp_path / "run"
    (own / "log.jsonl").write_text("of the run")
    monkeypatch.chdir(tmp_path)
    distiller.save_model("run")  # the same folder by another name
    lines = (own / "log.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == distiller.state.log_history


def test_a_license_that_is_given_is_on_the_card(tmp_path):
    for name, given, expected in (("a", None, []), ("b", "cc-by-4.0", ["cc-by-4.0"])):
        folder = toy_distiller(tmp_path / name, license=given).save_model()
        assert json.loads((folder / "recipe.json").read_text())["source"]["licenses"] == expected
        assert ("\nlicense: cc-by-4.0\n" in (folder / "README.md").read_text()) == bool(expected)


def test_the_command_of_the_card_asks_for_data_that_have_no_name(tmp_path):
    distiller = toy_distiller(tmp_path, max_steps=1)
    distiller.compare()
    record = json.loads((distiller.save_model() / "recipe.json").read_text())
    command = f"dd-plugin evaluate {tmp_path.name} --dataset FOLDER --networks 2"
    assert record["protocol"]["command"] == command


def test_the_command_of_the_card_can_be_pasted(tmp_path):
    distiller = toy_distiller(tmp_path / "my Vögel", max_steps=1)
    distiller.compare()
    record = json.loads((distiller.save_model() / "recipe.json").read_text())
    words = shlex.split(record["protocol"]["command"])
    assert words[:5] == ["dd-plugin", "evaluate", "my Vögel", "--dataset", "FOLDER"]


@pytest.mark.parametrize(
    ("baselines", "words"),
    [
        ("auto", ""),
        ("none", ""),
        (["herding", "random_real"], " --baselines random_real herding"),
        ("all", " --baselines all"),
    ],
)
def test_the_command_of_the_card_has_the_baselines_of_the_run(
    tmp_path, monkeypatch, baselines, words
):
    monkeypatch.setattr(Evaluator, "baselines", lambda self: {})
    distiller = toy_distiller(tmp_path, max_steps=1, baselines=baselines, final_eval_networks=1)
    distiller.compare()
    record = json.loads((distiller.save_model() / "recipe.json").read_text())
    command = f"dd-plugin evaluate {tmp_path.name} --dataset FOLDER --networks 1{words}"
    assert record["protocol"]["command"] == command


def trained(folder, **options):
    distiller = toy_distiller(folder, **{"max_steps": 2, **options})
    distiller.train()
    return distiller


ERRORS = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EFBIG, "File too large"),
    PermissionError("fonts"),
    RuntimeError("no backend"),
    ValueError("image size"),
    KeyError("font"),
    AttributeError("numpy"),
    OverflowError("too many ticks"),
]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
@pytest.mark.parametrize("what", ["training_curve", "results_table"])
def test_a_picture_that_fails_costs_a_warning(tmp_path, monkeypatch, error, what):
    distiller = trained(tmp_path, max_steps=1)
    distiller.results = {"distilled": report.Scores((0.5, 0.6))}

    def fails(*args, **kwargs):
        raise error

    monkeypatch.setattr(report, what, fails)
    name = {"training_curve": "curve.png", "results_table": "results.md"}[what]
    (tmp_path / name).write_text("of an earlier set")
    with pytest.warns(UserWarning, match=f"is whole, but it lacks {name}"):
        distiller.save_model()
    assert not (tmp_path / name).exists()
    assert (tmp_path / "log.jsonl").exists()
    DistilledDataset.from_pretrained(tmp_path)


def test_files_beside_the_set_cost_a_warning(tmp_path, monkeypatch):
    distiller = trained(tmp_path, max_steps=1)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(report, "write_whole", full)
    with pytest.warns(UserWarning, match=r"it lacks log\.jsonl .*, curve\.png"):
        distiller.save_model()
    DistilledDataset.from_pretrained(tmp_path)


def test_a_set_is_saved_without_the_license_that_nobody_tells(distiller, monkeypatch):
    def unreachable(*args, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(HfApi, "dataset_info", unreachable)
    distiller.train_data.public_name = "toy"  # as if its images were on the Hub
    record = json.loads((distiller.save_model() / "recipe.json").read_text())
    assert (record["source"]["hub_id"], record["source"]["licenses"]) == ("toy", [])
