"""Values of a recipe in a file: one of another kind or size is named, with what it has to be."""

import pytest

from dd_plugin.data.recipe import Recipe
from dd_plugin.data.recipe_values import MOST_STEPS, check_amounts, check_types


def values(**changes):
    recipe = Recipe(shape=(1, 8, 8), class_names=("a", "b"), steps=3)
    return {**recipe.to_dict(), **changes}


@pytest.mark.parametrize("wrong", [0, -1, 257, 10**9, 2.0, True, "2", None, [2]])
def test_augmentations_per_step_are_a_small_whole_number(wrong):
    with pytest.raises(ValueError, match="`augmentations_per_step` of the recipe must be a wh"):
        check_types(values(augmentations_per_step=wrong))


@pytest.mark.parametrize("wrong", ["w", [], ["w", "w"], [1]])
def test_parameters_with_step_sizes_are_different_names(wrong):
    with pytest.raises(ValueError, match="must be a list of different names or null"):
        check_types(values(step_size_parameters=wrong))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"shape": (3, 1, 65_536), "class_names": ("a",), "steps": MOST_STEPS},
        {"augmentations_per_step": 256, "head_copies": 256},
        {"head_copies": 0, "batch_size": None, "statistics": None},
        {"model_args": {"width": 4, "sizes": [1, 2.5], "norm_layer": None}},
    ],
    ids=str,
)
def test_values_that_are_possible(changes):
    check_types(values(**changes))


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("shape", [1, 0, 8], "three whole numbers"),
        ("class_names", ["a", 1], "a list of names"),
        ("steps", MOST_STEPS + 1, "a whole number up to 10,000,000"),
        ("groups", 0, "a whole number from 1"),
        ("head_copies", False, "a whole number from 0 to 256"),
        ("batch_size", "4", "a whole number or null"),
        ("optimizer", None, "a word"),
        ("statistics", 1, "a word or null"),
        ("networks", [{}] * 100_000, "a list of at most"),
        ("optimizer_args", {"momentum": {"a": 1}}, "an object of plain values"),
    ],
)
def test_values_of_another_kind(name, wrong, message):
    with pytest.raises(ValueError, match=f"`{name}` of the recipe must be {message}") as caught:
        check_types(values(**{name: wrong}))
    assert len(str(caught.value)) < 200


def test_arguments_that_could_load_files_are_refused():
    with pytest.raises(ValueError, match="`model_args` of the recipe has 'checkpoint_path'"):
        check_types(values(model_args={"checkpoint_path": "weights.bin"}))


def test_settings_within_the_bounds():
    check_amounts("flip_rotate", 256, 256, MOST_STEPS)


@pytest.mark.parametrize(
    ("amounts", "message"),
    [
        (("flipp", 1, 0, 1), "got 'flipp'"),
        (("", 257, 0, 1), "`augmentations_per_step` must be at most 256, got 257"),
        (("", 1, 257, 1), "`head_copies` must be at most 256, got 257"),
        (("", 1, 0, MOST_STEPS + 1), "`inner_steps` must be at most 10,000,000, got 10,000,001"),
    ],
)
def test_settings_out_of_bounds(amounts, message):
    with pytest.raises(ValueError, match=message):
        check_amounts(*amounts)
