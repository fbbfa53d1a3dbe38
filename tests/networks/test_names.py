"""Names and arguments of networks: typed, or out of a record that anyone may have written."""

import pytest
from torch import nn
from transformers import ResNetConfig

from dd_plugin import DistilledDataset
from dd_plugin.networks.errors import ModelLoadError
from dd_plugin.networks.names import factory_from, load_model, model_factory
from tests.hub.toy import change_record, write_toy
from tests.networks.models import hub_config


def test_what_is_none_is_left_out():
    assert load_model("timm/dd_convnet", img_size=None, num_classes=None).num_classes == 10


def test_factory_makes_models_that_share_nothing(tmp_path):
    hub_config("resnet").save_pretrained(tmp_path)
    make = model_factory(str(tmp_path), num_classes=2)
    first, second = make(), make()
    assert first.training
    assert first.config is not second.config
    assert not {id(p) for p in first.parameters()} & {id(p) for p in second.parameters()}


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../model",
        "./model",
        "~/model",
        "model/../../model",
        "a/b/c",
        "C:\\model",
        "",
        "file:///etc/passwd",
        "x" * 5000,
        "a\0b",
    ],
    ids=repr,
)
def test_a_name_out_of_a_record_is_no_path(tmp_path, monkeypatch, name):
    folder = write_toy(tmp_path / "set")
    ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1]).save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path / "set")
    change_record(folder, lambda record: record["recipe"].update(model=name, model_args={}))
    distilled = DistilledDataset.from_pretrained(folder)
    for model in (None, name):
        with pytest.raises(ModelLoadError, match="neither timm/NAME nor an id") as caught:
            distilled.fit(model)
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["model", "someone/model"])
def test_a_name_of_the_hub_is_not_looked_up_here(tmp_path, monkeypatch, name):
    config = ResNetConfig(
        num_channels=1, embedding_size=4, hidden_sizes=[4], depths=[1], num_labels=2
    )
    config.save_pretrained(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    folder = write_toy(tmp_path / "set")
    change_record(folder, lambda record: record["recipe"].update(model=name, model_args={}))
    distilled = DistilledDataset.from_pretrained(folder)
    with pytest.raises(ModelLoadError, match="there is a file or folder of that name here"):
        distilled.fit()
    # What a user types may be a path, the same one too.
    assert isinstance(distilled.fit(str(tmp_path / name)), nn.Module)  # as on real images


@pytest.mark.parametrize("value", [10**9, 1e300, -(10**12), float("inf"), float("nan")])
def test_a_set_cannot_ask_for_huge_arguments(value):
    for given in (value, [1, value]):
        with pytest.raises(ModelLoadError, match="'num_classes' must be at most"):
            factory_from("timm/dd_convnet", {"num_classes": given}, from_record=True)


ODD = [
    {"name": 1},
    {"torch_dtype": "no such"},
    {"torch_dtype": [1]},
    {"hidden_act": "no such"},
    {"hidden_act": 3},
    {"hidden_sizes": "ab"},
    {"depths": [0.5]},
    {"depths": None, "layer_type": 3},
    {"num_channels": "x"},
    {"num_labels": -3},
    {"num_labels": "x"},
    {"num_classes": [1]},
    {"img_size": "x"},
    {"img_size": [1, 2, 3]},
    {"to_dict": 1},
    {"model_type": []},
    {"id2label": 3},
    {"self": 1},
    {"from_record": False},
    {"max_parameters": 1},
    {"make": 1},
]


@pytest.mark.parametrize("model_args", ODD, ids=repr)
@pytest.mark.parametrize("library", ["transformers", "timm"])
def test_odd_arguments_make_a_network_or_our_error(tmp_path, model_args, library):
    name = "timm/dd_convnet"
    if library == "transformers":
        name = str(tmp_path)
        ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1]).save_pretrained(tmp_path)
    for options in ({}, {"max_parameters": 10**7}):
        try:
            network = factory_from(name, model_args, **options)()
        except ModelLoadError:
            continue
        assert isinstance(network, nn.Module)
