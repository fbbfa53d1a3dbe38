"""How networks are trained on a set, in the words of its card."""

import re

import pytest

from tests.hub.card.parts import sections
from tests.hub.records import a_record, card_of


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"batching": "minibatches", "batch_size": 4}, "4 images in each step, shuffled"),
        ({"batching": "groups", "groups": 2}, "one of 2 groups in each step, in turn"),
        ({"init": "fixed"}, "one initialization, stored in `tensors.safetensors`"),
        ({"statistics": None}, "none"),
        ({"model": None}, "one without a name with"),
        ({"loss": "custom"}, "its author's own, not part of the recipe"),
        ({"mixed_precision": "bf16"}, "bfloat16 where `torch.autocast` allows it"),
    ],
)
def test_recipe_in_words(change, text):
    record = a_record()
    record["recipe"].update(change)
    assert text in sections(card_of(record))["recipe"]


def test_a_network_without_a_name_is_described():
    record = a_record()
    record["recipe"] |= {"model": None, "model_args": {}}
    record["about"]["network"] = {"class": "Tiny", "parameters": 4321}
    text = sections(card_of(record))["recipe"]
    assert "| one without a name: a `Tiny` with 4,321 trained parameters |" in re.sub(
        " +", " ", text
    )


def test_constant_step_size_is_told():
    record = a_record()
    record["images"]["learned_step_sizes"] = False
    record["about"]["config"]["inner_lr"] = 0.0375
    assert "constant, 0.0375" in sections(card_of(record))["recipe"]


def test_step_sizes_along_a_cosine_are_told():
    record = a_record()
    record["images"]["learned_step_sizes"] = False
    record["about"]["config"] |= {"inner_lr": 0.002, "inner_schedule": "cosine"}
    assert "not learned: half a cosine from 0.002 to 0" in sections(card_of(record))["recipe"]


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"parametrization": "pixels"}, "pixels"),
        ({"parametrization": "upsampled"}, "pixels at 1/3 of the resolution"),
        ({"parametrization": "pyramid"}, "a sum of levels of rising resolution"),
        (
            {"parametrization": "pyramid", "color_space": "decorrelated"},
            "a sum of levels of rising resolution, in decorrelated colors",
        ),
        (
            {"parametrization": "upsampled_pyramid"},
            "a sum of levels up to 1/3 of the resolution",
        ),
        (
            {"parametrization": "upsampled_pyramid", "color_space": "decorrelated"},
            "a sum of levels up to 1/3 of the resolution, in decorrelated colors",
        ),
    ],
)
def test_what_is_learned_of_the_images_is_told(config, told):
    record = a_record()
    record["about"]["config"] |= {"upsample_factor": 3, **config}
    rows = re.sub(" +", " ", sections(card_of(record))["distillation"])
    assert f"| learned as | {told} |" in rows


@pytest.mark.parametrize(("images", "told"), [(48, "48"), (321, "321"), (None, "321")])
def test_a_step_takes_no_more_real_images_than_there_are(images, told):
    record = a_record()
    record["source"]["images"] = images
    record["about"]["config"]["real_batch_size"] = 321
    row = f"| real images per outer step    | {told} "
    assert row in sections(card_of(record))["distillation"]


def test_a_run_that_had_more_steps_to_go_is_told():
    record = a_record()
    record["about"] |= {"outer_steps": 1200, "unfinished": True}
    words = "1,200 so far; the run was not finished"
    assert words in sections(card_of(record))["distillation"]
    record["about"]["unfinished"] = False
    assert words not in sections(card_of(record))["distillation"]
