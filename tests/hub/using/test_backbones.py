"""`dd_plugin.hub.using.backbones`: frozen networks as they were when the set was distilled."""

import warnings

import pytest
import timm
import torch

from dd_plugin import DistilledDataset
from dd_plugin.hub.dataset import OtherWeightsWarning
from dd_plugin.models import ModelLoadError
from tests.distiller.toy import Small, toy_dataset
from tests.hub.networks import saved_network
from tests.hub.sets import head_set
from tests.hub.toy import with_record


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


def test_other_weights_under_the_same_name_are_noticed(tmp_path):
    place = saved_network(tmp_path / "network")
    folder = head_set(tmp_path / "out", place)
    # As if the path were the name of a model of the Hub.
    opened = with_record(
        folder, lambda record: record["recipe"]["backbones"][0].update(model=place)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened.fit(place)
    saved_network(place, seed=1)
    with pytest.warns(OtherWeightsWarning, match="fingerprint"):
        opened.fit(place)


def test_a_name_in_a_record_is_never_a_folder_of_this_machine(tmp_path, monkeypatch):
    folder = head_set(tmp_path / "out")

    def change(record):
        record["recipe"]["model"] = "someone/network"
        record["recipe"]["backbones"][0]["model"] = "someone/network"

    opened = with_record(folder, change)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "someone" / "network").mkdir(parents=True)
    with pytest.raises(ModelLoadError, match="there is a file or folder of that name here"):
        opened.fit()
