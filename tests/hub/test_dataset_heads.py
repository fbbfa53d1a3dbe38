"""Sets for the heads of pretrained networks, in the hands of somebody who did not make them."""

import json

import pytest

from dd_plugin import DistilledDataset
from dd_plugin.cli import main
from tests.distiller.toy import Small, toy_dataset
from tests.hub.networks import saved_network
from tests.hub.sets import head_set
from tests.hub.toy import with_record


def photos(folder):
    """A folder of the toy images with the splits train and validation."""
    for split, seed in (("train", 0), ("validation", 1)):
        data = toy_dataset(seed=seed)
        names = data.features["label"].names
        for row, example in enumerate(data):
            place = folder / split / names[example["label"]]
            place.mkdir(parents=True, exist_ok=True)
            example["image"].convert("RGB").save(place / f"{row}.png")
    return str(folder)


def test_the_command_evaluates_the_sets_own_networks_and_others(tmp_path, capsys, monkeypatch):
    data = photos(tmp_path / "photos")
    own = [saved_network(tmp_path / name, seed) for seed, name in enumerate(("one", "two"))]
    folder = head_set(tmp_path / "out", own, normalization=None, image_size=32)
    # As if both had names, and a third were given by hand.
    loaded = []
    original = DistilledDataset.backbone

    def backbone(self, model=None, **options):
        loaded.append(model)
        place = own[["timm/test_resnet", "timm/test_vit"].index(model)]
        return original(self, place, **options)

    monkeypatch.setattr(DistilledDataset, "backbone", backbone)

    def change(record):
        record["recipe"]["model"] = "timm/test_resnet"
        for noted, name in zip(
            record["recipe"]["backbones"], ("timm/test_resnet", "timm/test_vit"), strict=True
        ):
            noted["model"] = name

    with_record(folder, change)
    rows = tmp_path / "rows.json"
    arguments = ["evaluate", str(folder), "--dataset", data, "--split", "validation"]
    assert main([*arguments, "--output", str(rows), "--networks", "2"]) == 0
    # Every network is loaded with its weights before anything is computed.
    assert loaded == ["timm/test_resnet", "timm/test_vit"]
    found = json.loads(rows.read_text())
    assert {row["model"] for row in found} == {"timm/test_resnet", "timm/test_vit"}
    assert {row["protocol"] for row in found} == {"head"}
    assert "real images by herding" in capsys.readouterr().out
    standard = [*arguments, "--no_baselines", "--protocol", "standard", "--output", str(rows)]
    assert main(standard) == 0
    found = json.loads(rows.read_text())
    assert len([row for row in found if row["protocol"] == "standard"]) == 4
    assert len([row for row in found if row["protocol"] == "head"]) == 14


def test_the_command_tells_of_a_network_without_weights_before_anything_is_computed(
    tmp_path, capsys, monkeypatch
):
    data = photos(tmp_path / "photos")
    folder = head_set(tmp_path / "out")
    place = tmp_path / "network"
    saved_network(place)
    (place / "model.safetensors").unlink()

    def no_features(*args, **kwargs):
        raise AssertionError("features were computed")

    monkeypatch.setattr("dd_plugin.hub.using.evaluating.features_of", no_features)
    good = saved_network(tmp_path / "good")
    arguments = ["evaluate", str(folder), "--dataset", data, "--model", good]
    assert main([*arguments, "--model", str(place)]) == 2
    told = capsys.readouterr().err
    assert "nothing has been trained yet" in told
    assert str(place) in told


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.update(backbones="network"),
        lambda r: r.update(backbones={}),
        lambda r: r.update(backbones=[]),
        lambda r: r.update(backbones=[None]),
        lambda r: r.update(backbones=r["backbones"] * 10_000),
        lambda r: r["backbones"][0].update(size=[1_000_000, 8]),
        lambda r: r["backbones"][0].update(size=[8]),
        lambda r: r["backbones"][0].update(fingerprint=7),
        lambda r: r["backbones"][0].update(num_features=10**30),
        lambda r: r["backbones"][0].update(num_features=True),
        lambda r: r["backbones"][0].update(feature_layer=["a"]),
        lambda r: r["backbones"][0].update(std=[0, 1, 1]),
        lambda r: r["backbones"][0].update(std=[1e-320, 1, 1]),
        lambda r: r["backbones"][0].update(mean=[10**400, 1, 1]),
        lambda r: r["backbones"][0].update(model="x" * 100_000),
        lambda r: r["backbones"][0].update(revision="../../etc"),
        lambda r: r["backbones"][0].update(more=1),
        lambda r: r["backbones"][0].pop("mean"),
        lambda r: r.update(head="forest"),
        lambda r: r.update(head=None),
        lambda r: r.update(trainable="tail"),
    ],
)
def test_a_record_edited_by_a_stranger_is_refused_in_words_or_harmless(tmp_path, change):
    network = Small()
    folder = head_set(tmp_path / "out", network)
    told = "a text that is neither empty nor endless"
    try:
        with_record(folder, lambda record: change(record["recipe"])).fit(network)
    except ValueError as error:
        told = str(error)
    assert 10 < len(told) < 1000
