"""Sets for the heads of pretrained networks, in the hands of somebody who did not make them."""

import copy
import json

import pytest
import timm
import torch
import transformers
from torch import nn

from dd_plugin import DistilledDataset
from dd_plugin.cli import main
from dd_plugin.models import ModelLoadError
from tests.distiller.toy import Small, toy_dataset
from tests.hub.sets import head_set


def with_record(folder, change):
    path = folder / "recipe.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    return DistilledDataset.from_pretrained(folder)


def saved_network(folder, seed=0):
    torch.manual_seed(seed)
    config = transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 6], depths=[1, 1], layer_type="basic"
    )
    transformers.ResNetForImageClassification(config).save_pretrained(folder)
    transformers.ConvNextImageProcessor().save_pretrained(folder)
    return str(folder)


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


def scaled(seed, mean, std):
    """A network of timm with a normalization of its own."""
    torch.manual_seed(seed)
    network = timm.create_model("test_resnet").eval()
    network.pretrained_cfg = {**network.pretrained_cfg, "mean": (mean,) * 3, "std": (std,) * 3}
    return network


def test_a_network_of_a_folder_is_used_as_it_was_when_distilling(tmp_path):
    place = saved_network(tmp_path / "network")
    folder = head_set(tmp_path / "out", place, image_size=32)
    opened = DistilledDataset.from_pretrained(folder)
    assert opened.recipe.backbones[0].model is None
    assert opened.backbone(place).normalization.mean == [0.0] * 3
    # Another network has its own.
    other = saved_network(tmp_path / "other", seed=1)
    assert opened.backbone(other).normalization.mean != [0.0] * 3


def test_another_network_without_the_layer_that_was_named(tmp_path):
    folder = head_set(tmp_path / "out", feature_layer="norm")
    opened = DistilledDataset.from_pretrained(folder)
    assert opened.backbone(Small()).num_features == 6
    torch.manual_seed(0)
    other = opened.fit(timm.create_model("test_vit"))
    assert other(torch.zeros(1, 3, 160, 160)).shape == (1, 3)


@pytest.mark.parametrize("model", [3, [Small()], object()])
def test_what_is_no_network_is_told(tmp_path, model):
    folder = head_set(tmp_path / "out")
    opened = DistilledDataset.from_pretrained(folder)
    for use in (opened.fit, opened.backbone, lambda m: opened.evaluate(m, toy_dataset(seed=1))):
        with pytest.raises(ValueError, match="`model` must be a name, a network or a function"):
            use(model)


def test_a_new_network_of_a_set_for_heads_is_refused_with_what_to_do(tmp_path):
    folder = head_set(tmp_path / "out")
    with pytest.raises(ValueError, match="use `backbone` for the frozen network"):
        DistilledDataset.from_pretrained(folder).new_network("timm/test_resnet")


def test_a_network_that_was_not_fitted_predicts_nothing(tmp_path):
    network = Small()
    folder = head_set(tmp_path / "out", network)
    opened = DistilledDataset.from_pretrained(folder)
    with pytest.raises(ValueError, match=r"`model` must be what `fit` gave, with 3 outputs .* 7"):
        opened.predict(network, toy_dataset()[0]["image"])


def test_a_fitted_network_is_known_again_when_it_was_copied_or_saved(tmp_path):
    network = scaled(0, 0.1, 0.9)
    folder = head_set(tmp_path / "out", network, image_size=32)
    opened = DistilledDataset.from_pretrained(folder)
    model = opened.fit(network)
    one = toy_dataset()[0]["image"]
    expected = opened.predict(model, one)
    again = DistilledDataset.from_pretrained(folder)
    assert again.predict(copy.deepcopy(model), one) == pytest.approx(expected)


def test_a_name_of_the_record_may_not_stand_for_a_network_over_the_limit(tmp_path):
    folder = head_set(tmp_path / "out")

    def change(record):
        record["recipe"]["model"] = "timm/vit_giant_patch14_dinov2"
        record["recipe"]["backbones"][0]["model"] = "timm/vit_giant_patch14_dinov2"

    opened = with_record(folder, change)
    with pytest.raises(ModelLoadError, match=r"more than .* parameters"):
        opened.fit()


def test_the_second_name_of_a_record_is_no_folder_of_this_machine_either(tmp_path, monkeypatch):
    folder = head_set(tmp_path / "out", [Small(3), Small(4)])
    monkeypatch.chdir(tmp_path)
    saved_network(tmp_path / "someone" / "network")

    def change(record):
        record["recipe"]["backbones"][1]["model"] = "someone/network"

    opened = with_record(folder, change)
    with pytest.raises(ModelLoadError, match="there is a file or folder of that name here"):
        opened.fit("someone/network")


def test_a_loss_of_the_authors_is_not_needed_for_a_probe(tmp_path):
    network = Small()
    folder = head_set(tmp_path / "out", network, head="unroll", steps=3)
    opened = with_record(folder, lambda record: record["recipe"].update(loss="custom"))
    with pytest.raises(ValueError, match='or use protocol="standard"'):
        opened.evaluate(network, toy_dataset(seed=1))
    scores = opened.evaluate(network, toy_dataset(seed=1), protocol="standard")
    model = opened.fit(network, protocol="standard")
    assert isinstance(model, nn.Module)
    assert scores.mean > 0.3


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


@pytest.mark.parametrize(
    "layer", ["__class__", "fc.__init__", "", "a" * 10_000, "norm.running_mean"]
)
def test_a_layer_named_by_a_stranger_is_a_module_or_nothing(tmp_path, layer):
    network = Small()
    folder = head_set(tmp_path / "out", network)
    opened = with_record(
        folder, lambda record: record["recipe"]["backbones"][0].update(feature_layer=layer)
    )
    assert opened.backbone(network).num_features == 6


def test_features_beside_a_set_are_neither_copied_nor_published(tmp_path):
    from dd_plugin.hub.remote.published import published_paths

    folder = head_set(tmp_path / "out")
    (folder / "features").mkdir()
    (folder / "features" / "a.safetensors").write_bytes(b"of the real images")
    assert not [name for name in published_paths(folder) if "features" in name]
    copied = DistilledDataset.from_pretrained(folder).save_pretrained(tmp_path / "copy")
    assert not (copied / "features").exists()
