"""`dd_plugin.distiller.baseline_names`: the setting from a list, a word or a switch."""

import pytest

from dd_plugin import DistillerConfig
from dd_plugin.distiller import baseline_names as baseline_names_of
from dd_plugin.distiller.baseline_names import NAMES, baseline_names, chosen_baselines
from dd_plugin.evaluation.training_images import (
    BASELINES,
    BY_DIFFICULTY,
    LABEL_CONTROLS,
    TrainingImages,
)


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("auto", ["auto"]),
        (True, ["auto"]),
        ("yes", ["auto"]),
        (None, ["auto"]),
        (False, []),
        ("none", []),
        ("no", []),
        (["none"], []),
        ([], []),
        ("herding", ["herding"]),
        # In the order of the table, each once.
        (["full_data", "random_real", "full_data"], ["random_real", "full_data"]),
        (("k_center",), ["k_center"]),
        ("all", list(NAMES)),
        (["easiest", "hard_labels"], ["hard_labels", "easiest"]),
    ],
)
def test_names(value, names):
    assert baseline_names(value) == names
    assert DistillerConfig(baselines=value).baselines == names
    assert baseline_names(names) == names  # as a record has them


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("herdin", "got 'herdin'; did you mean 'herding'"),
        (["random_real", "x1"], "must be auto, none, all, or some of .*random_real.*, got 'x1'"),
        (["none", "herding"], "auto, none and all stand alone"),
        (["auto", "herding"], "auto, none and all stand alone"),
        (["herding", "all"], "auto, none and all stand alone"),
        (7, "got '7'"),
    ],
)
def test_other_values_are_refused(value, message):
    with pytest.raises(ValueError, match=f"`baselines` .*{message}"):
        DistillerConfig(baselines=value)


def test_chosen_names_stand_for_all_that_is_beside_a_set():
    assert chosen_baselines(["auto"]) is None
    assert chosen_baselines([]) == []
    assert tuple(TrainingImages.baseline(name) for name in chosen_baselines("all")) == BASELINES
    itself = {TrainingImages.DISTILLED, TrainingImages.EIGHT_BIT}
    assert set(BASELINES) == set(TrainingImages) - itself


def test_the_names_of_groups_are_those_of_the_comparison():
    assert [*map(TrainingImages.baseline, baseline_names_of.LABEL_CONTROLS)] == [*LABEL_CONTROLS]
    assert [*map(TrainingImages.baseline, baseline_names_of.BY_DIFFICULTY)] == [*BY_DIFFICULTY]
