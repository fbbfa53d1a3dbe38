"""`dd_plugin.distiller.baseline_names`: the setting from a list, a word or a switch."""

import pytest

from dd_plugin import DistillerConfig
from dd_plugin.distiller.baseline_names import NAMES, baseline_names, chosen_baselines
from dd_plugin.evaluation.training_images import REAL, TrainingImages


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
        (["random_real", "x1"], "must be auto, none, or some of random_real, .*, got 'x1'"),
        (["none", "herding"], "auto and none stand alone"),
        (["auto", "herding"], "auto and none stand alone"),
        (7, "got '7'"),
    ],
)
def test_other_values_are_refused(value, message):
    with pytest.raises(ValueError, match=f"`baselines` .*{message}"):
        DistillerConfig(baselines=value)


def test_chosen_names_stand_for_all_kinds_of_real_images():
    assert chosen_baselines(["auto"]) is None
    assert chosen_baselines([]) == []
    assert tuple(TrainingImages.baseline(name) for name in chosen_baselines(NAMES)) == REAL
    assert set(REAL) == {kind for kind in TrainingImages if kind.pixels is None}
