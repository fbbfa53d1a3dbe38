"""The networks that a recipe names, read out of a file that anyone may have written."""

import pytest

from dd_plugin.data.network_records import (
    BackboneRecord,
    NetworkRecord,
    backbone_from,
    check_arguments,
    is_plain_object,
    label_of,
    network_from,
)

BACKBONE = {
    "model": "timm/resnet18",
    "fingerprint": "0f",
    "revision": None,
    "size": [32, 24],
    "num_features": 6,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
}


def test_labels_tell_networks_of_one_name_apart():
    names = ["timm/a", "", "timm/a", "timm/b"]
    labels = [label_of(names, place) for place in range(4)]
    assert labels == ["timm/a:1", "network 2", "timm/a:2", "timm/b"]


def test_a_network_comes_back():
    values = {"model": "timm/a", "model_args": {"width": 4}}
    assert network_from(values) == NetworkRecord("timm/a", {"width": 4})
    assert network_from({"model": None, "model_args": {}}) == NetworkRecord(None)


@pytest.mark.parametrize(
    "values",
    [
        "timm/a",
        {"model": "a"},
        {"model": 3, "model_args": {}},
        {"model": "a", "model_args": {"x": object()}},
        {"model": "a", "model_args": {"x": {"y": 1}}},
        {"model": "a", "model_args": {}, "more": 1},
    ],
    ids=["a name", "no arguments", "a number", "an object", "a mapping", "more"],
)
def test_a_network_of_another_form(values):
    with pytest.raises(ValueError, match="`networks` of the recipe must hold objects"):
        network_from(values)


@pytest.mark.parametrize("name", ["checkpoint_path", "pretrained_cfg"])
def test_arguments_that_could_load_more_than_a_network(name):
    with pytest.raises(ValueError, match=rf"has '{name}', which could load other files or code"):
        check_arguments({"width": 4, name: "x"})


def test_a_backbone_comes_back():
    found = backbone_from(BACKBONE)
    assert found == BackboneRecord(
        "timm/resnet18", "0f", None, (32, 24), 6, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("size", [0, 8]),
        ("size", [1 << 20, 8]),
        ("num_features", 0),
        ("num_features", True),
        ("mean", [0.5, 0.5]),
        ("std", [0.0, 1.0, 1.0]),
        ("std", [float("nan"), 1.0, 1.0]),
        ("fingerprint", None),
        ("more", 1),
    ],
)
def test_a_backbone_of_another_form(name, value):
    with pytest.raises(ValueError, match="`backbones` of the recipe must hold"):
        backbone_from({**BACKBONE, name: value})


def test_plain_objects():
    assert is_plain_object({"a": [1, "b", None], "c": True})
    assert not any(map(is_plain_object, ([], {1: 2}, {"a": {}}, {"a": [[]]})))
