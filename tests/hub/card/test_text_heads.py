"""What the card of a set for heads says is so: read as somebody would who finds it on the Hub."""

import json

import pytest

from dd_plugin.data import Normalization
from dd_plugin.distiller import DistillerConfig
from tests.distiller.toy import Small
from tests.hub.records import card_of
from tests.hub.sets import head_set

MEAN, STD = [0.25, 0.5, 0.75], [0.1, 0.2, 0.3]


def record_of(tmp_path, change=None, model=None, **settings):
    """The record of a set for heads, as a run with these settings leaves it."""
    recipe = {"head": settings.get("head", "ridge"), "steps": settings.get("inner_steps", 1)}
    recipe["augmentation"] = settings.get("augmentation", "")
    folder = head_set(tmp_path, model, normalization=Normalization(MEAN, STD), **recipe)
    record = json.loads((folder / "recipe.json").read_text())
    config = DistillerConfig(trainable="head", output_dir=str(tmp_path), **settings)
    record["about"] = {"config": config.to_dict(), "outer_steps": 4}
    record["results"] = {"distilled": {"mean": 0.5, "std": 0.0, "accuracies": [0.5]}}
    if change is not None:
        change(record["recipe"])
    return record


def named(recipe):
    recipe["model"] = "timm/resnet18.a1_in1k"
    for noted in recipe["backbones"]:
        noted["model"] = recipe["model"]


def test_a_ridge_head_has_no_steps_and_no_loss(tmp_path):
    card = card_of(record_of(tmp_path, named))
    for absent in ("| steps ", "| loss ", "differentiated", "BatchNorm", "Mixed-Mode"):
        assert absent not in card
    assert "`resnet18" not in card.split("## How to use it")[0]


def test_an_unrolled_head_has_its_steps_and_its_loss(tmp_path):
    card = card_of(record_of(tmp_path, named, head="unroll", inner_steps=3))
    for present in ("| steps ", "| loss ", "differentiated", "Mixed-Mode", "step by step"):
        assert present in card


def test_the_numbers_of_the_snippets_are_those_of_the_frozen_network(tmp_path):
    card = card_of(record_of(tmp_path, named))
    assert "the normalization of the first frozen network" in card
    assert "v2.Normalize([0.25, 0.5, 0.75], [0.1, 0.2, 0.3])" in card
    assert "mean=[0.25, 0.5, 0.75]" in card
    assert "[1, 1, 1]" not in card


def test_the_augmentation_is_said_where_images_were_learned_and_not_where_a_head_is_trained(
    tmp_path,
):
    card = card_of(record_of(tmp_path, named, augmentation="flip+noise"))
    before, after = card.split("## How it was made")
    assert "flip+noise" in after
    assert "augmentation" not in before.split("## The recipe")[1]
    plain = card_of(record_of(tmp_path / "plain", named))
    assert "augmentation" not in plain.split("## The recipe")[1]


def test_matched_gradients_are_not_called_a_gradient_through_the_training(tmp_path):
    card = card_of(record_of(tmp_path, named, objective="gradient_matching"))
    assert "gradients of random heads on these images" in card
    assert "through its whole training" not in card
    assert "gradients of random heads, as on real images: Cazenavette" in card
    other = card_of(record_of(tmp_path / "other", named))
    assert "the trained head's loss on real images was taken through its whole training" in other
    assert "Cazenavette" not in other


@pytest.mark.parametrize("change", [None, named])
def test_what_is_passed_to_fit_is_a_pretrained_network(tmp_path, change):
    card = card_of(record_of(tmp_path, change))
    assert "make_network" not in card
    assert ("distilled.fit(network)" in card) == (change is None)
    assert ("# network is the one that" in card) == (change is None)


def test_an_accuracy_of_several_networks_is_not_promised_of_one(tmp_path):
    one = card_of(record_of(tmp_path / "one", named))
    assert "By the recipe, which gives the accuracy above:" in one
    two = card_of(record_of(tmp_path / "two", named, model=[Small(3), Small(4)]))
    assert "By the recipe (the accuracy above is the mean over the frozen networks):" in two


def test_random_weights_are_said(tmp_path):
    record = record_of(tmp_path, named)
    record["recipe"]["model_args"] = {"pretrained": False}
    card = card_of(record)
    assert "random weights, which are not stored" in card
    assert "which gives the accuracy above" not in card
    assert "random weights" not in card_of(record_of(tmp_path / "other", named))


def test_the_file_of_tensors_is_described(tmp_path):
    card = card_of(record_of(tmp_path, named))
    assert "exact images and labels, what was learned about training a head" in card
