"""No path of this machine is published: what is a name is decided when the data is loaded."""

import json
import shutil
from pathlib import Path

import datasets
import pytest

from dd_plugin.distiller import Distiller
from dd_plugin.distiller.published_names import is_path
from dd_plugin.hub.remote import download
from tests.distiller.toy import CLASSES, toy_config, toy_dataset


def draw(folder):
    """The toy images as files."""
    for split, rows in (("train", toy_dataset()), ("validation", toy_dataset(30, seed=1))):
        for number, row in enumerate(rows):
            place = folder / split / CLASSES[row["label"]]
            place.mkdir(parents=True, exist_ok=True)
            row["image"].save(place / f"{number}.png")


@pytest.fixture
def asked(monkeypatch):
    """The names that the Hub was asked about."""
    names = []
    monkeypatch.setattr(download, "licenses_of", lambda name: names.append(name) or [])
    return names


def published(folder):
    """All that would be public, as text."""
    return "".join(
        path.read_text("utf-8") for path in (folder / "README.md", folder / "recipe.json")
    )


@pytest.mark.parametrize(
    ("given", "then"),
    [
        ("config", "stays"),
        ("config", "is gone"),
        ("config", "is elsewhere"),
        ("argument", "is gone"),
        ("path", "is elsewhere"),
    ],
)
def test_a_folder_is_never_named(tmp_path, monkeypatch, asked, given, then):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    draw(tmp_path / "here" / "grace" / "secret-pets")
    source = str(Path("grace", "secret-pets"))  # which could be a name on the Hub
    config = toy_config(
        tmp_path / "run",
        max_steps=1,
        dataset=source if given == "config" else "digits",
    )
    config.run_name = "secret-run"
    data = {"argument": source, "path": tmp_path / "here" / source}.get(given)
    distiller = Distiller(None, config, data, data)
    distiller.train()
    distiller.compare()
    if then == "is gone":
        shutil.rmtree(tmp_path / "here" / "grace")
    elif then == "is elsewhere":
        (tmp_path / "there").mkdir()
        monkeypatch.chdir(tmp_path / "there")
    distiller.save_model()
    text = published(tmp_path / "run")
    assert "secret" not in text
    assert "grace" not in text
    assert str(tmp_path) not in text
    record = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert (record["source"]["dataset"], record["source"]["hub_id"]) == (None, None)
    assert record["protocol"]["dataset"] is None
    assert asked == []


def test_a_name_on_the_hub_is_named_though_a_folder_has_come_up(tmp_path, monkeypatch, asked):
    monkeypatch.chdir(tmp_path)
    both = datasets.DatasetDict(train=toy_dataset(), validation=toy_dataset(30, seed=1))

    def load(path, split=None, **options):
        assert path == "ada/pets"
        return both[split]

    monkeypatch.setattr(datasets, "load_dataset", load)
    distiller = Distiller(None, toy_config(tmp_path / "run", max_steps=1, dataset="ada/pets"))
    distiller.train()
    distiller.compare()
    (tmp_path / "ada" / "pets").mkdir(parents=True)
    distiller.save_model()
    record = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert record["source"]["hub_id"] == record["protocol"]["dataset"] == "ada/pets"
    assert record["about"]["config"]["dataset"] == "ada/pets"
    assert asked == ["ada/pets"]


def test_objects_have_no_name(tmp_path, asked):
    config = toy_config(tmp_path / "run", max_steps=1, dataset="digits")
    distiller = Distiller(None, config, toy_dataset(), toy_dataset(30, seed=1))
    distiller.train()
    distiller.compare()
    distiller.save_model()
    record = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert record["source"]["dataset"] is None
    assert record["protocol"]["dataset"] is None


def test_a_network_with_a_file_in_its_arguments_is_not_named(tmp_path):
    weights = tmp_path / "secret.json"
    weights.write_text("{}")
    config = toy_config(
        tmp_path / "run",
        max_steps=1,
        model_args={"width": 4, "depth": 2, "pretrained_cfg_overlay": {"file": str(weights)}},
    )
    distiller = Distiller(None, config, toy_dataset(), toy_dataset(30, seed=1))
    distiller.train()
    distiller.save_model()
    assert "secret" not in published(tmp_path / "run")
    assert distiller.synthetic.recipe.model is None


def test_arguments_of_a_network_that_are_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.pth").write_text("")
    (tmp_path / "relu").write_text("")
    for value in (
        "/somewhere/weights.pth", "~/weights.pth", "./x", "weights.pth", tmp_path,
        {"overlay": {"file": str(tmp_path / "weights.pth")}}, {"files": ["weights.pth"]},
    ):  # fmt: skip
        assert is_path({"argument": value})
    for value in ("relu", "other.pth", "", None, 4, 0.5, ["batchnorm2d"], {"norm": {"eps": 1e-5}}):
        assert not is_path({"argument": value})
    assert is_path("relu", bare=True)
