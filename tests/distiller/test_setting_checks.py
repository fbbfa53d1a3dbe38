import warnings

import numpy as np
import pytest

from dd_plugin.distiller import DistillerConfig, NoEffectWarning
from dd_plugin.distiller.setting_checks import RANGES
from dd_plugin.distiller.setting_descriptions import setting_choices
from tests.distiller.toy import toy_config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inner_steps": 0}, "`inner_steps` must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "`learning_rate` must be positive"),
        ({"learning_rate": float("nan")}, "`learning_rate` must be a finite number, got nan"),
        ({"window": "random"}, "`window_length` must be given"),
        ({"window": "last", "window_length": 99}, "between 1 and `inner_steps` = 20, got 99"),
        ({"batching": "groups", "groups": 3}, "`groups` must divide `images_per_class` = 1"),
        (
            {"batching": "groups", "groups": 3, "parametrization": "upsampled"},
            r"must divide `images_per_class` \* `upsample_factor` \*\* 2 = 4",
        ),
        ({"batching": "minibatches"}, "`batch_size` must be given"),
        ({"augmentations_per_step": 0}, "`augmentations_per_step` must be at least 1, got 0"),
        ({"pyramid_levels": 0}, "`pyramid_levels` must be at least 1 or None, got 0"),
        (
            {"color_space": "decorrelated"},
            '`color_space` must be "rgb" with parametrization="pixels".*parametrization="pyramid"',
        ),
        (
            {"color_space": "decorrelated", "parametrization": "upsampled"},
            '`color_space` must be "rgb" with parametrization="upsampled"',
        ),
        (
            {"parametrization": "upsampled_pyramid", "image_size": 9},
            "must divide the size of the images, 9 x 9, got 2",
        ),
        (
            {"parametrization": "upsampled_pyramid", "image_size": 8, "pyramid_levels": 4},
            "`pyramid_levels` must be from 1 to 3 for images of 4 x 4",
        ),
        (
            {"batching": "groups", "groups": 3, "parametrization": "upsampled_pyramid"},
            r"must divide `images_per_class` \* `upsample_factor` \*\* 2 = 4",
        ),
        (
            {"init": "pool", "window": "last", "window_length": 2, "pool_max_steps": 10},
            "`pool_max_steps` must be at least `inner_steps` = 20, got 10",
        ),
        ({"init": "pool"}, "a run from a partly trained network is no full unroll"),
        ({"push_to_hub": True}, "`hub_dataset_id` must be given"),
        ({"save_total_limit": 0}, "`save_total_limit` must be at least 1 or None"),
        (
            {"inner_schedule": "cosine", "step_sizes": "shared"},
            '`step_sizes` must be per_step, per_layer or constant with inner_schedule="cosine"',
        ),
        ({"eval_steps": -1}, "`eval_steps` must not be negative"),
        ({"model_args": "{width"}, "`model_args` must be JSON"),
        ({"model_args": "[1]"}, "`model_args` must be a dictionary"),
    ],
)
def test_impossible_settings(options, message):
    with pytest.raises(ValueError, match=message):
        DistillerConfig(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"groups": 2},
        {"batch_size": 5},
        {"pool_size": 3},
        {"label_lr": 0.5},
        {"upsample_factor": 3},
        {"upsample_factor": 3, "parametrization": "pyramid"},
        {"pyramid_levels": 3},
        {"augmentations_per_step": 2},
        {"augmentations_per_step": 2, "augmentation": "none"},
        {"step_sizes": "constant", "step_size_lr": 0.5},
        {"step_sizes": "constant", "statistics_lr": 0.5},
        {"statistics_corrections": "none", "statistics_lr": 0.5},
        {"statistics_corrections": "none", "statistics": "frozen"},
        {"statistics_corrections": "none", "statistics": "learned"},
        {"statistics_corrections": "none", "trainable": "head"},
        {"hub_private_repo": True},
        {"mixed_precision": "bf16", "dtype": "float64"},
        {"storage": "recompute", "method": "autograd"},
        {"warmup_steps": 5, "lr_scheduler_type": "constant"},
        {"run_name": "first"},
        {"init": "fixed", "baselines": False, "final_eval_networks": 9},
    ],
)
def test_an_option_without_effect_warns(options):
    with pytest.warns(NoEffectWarning, match="has no effect with the other settings"):
        DistillerConfig(**options)


def test_a_head_learns_constants_whatever_its_step_sizes_are():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        DistillerConfig(trainable="head", step_sizes="constant", statistics_lr=0.5)
    assert not any("`statistics_lr`" in str(warning.message) for warning in caught)


@pytest.mark.parametrize("value", [1e300, 1e39, 1e-46])
@pytest.mark.parametrize("name", ["inner_lr", "learning_rate", "step_size_lr", "statistics_lr"])
def test_rates_that_the_precision_does_not_have(tmp_path, name, value):
    with pytest.raises(ValueError, match=rf"`{name}` must be a number that float32 can hold"):
        DistillerConfig(**{name: value})
    assert getattr(toy_config(tmp_path, **{name: value}), name) == value  # of float64


def test_ranges_are_those_of_the_types():
    assert tuple(RANGES) == setting_choices()["dtype"]
    for dtype, (tiniest, largest) in RANGES.items():
        assert tiniest == float(np.finfo(dtype).tiny)
        assert largest == float(np.finfo(dtype).max)


@pytest.mark.parametrize("fraction", [-0.1, 1, 2])
def test_the_held_out_share_is_below_one(tmp_path, fraction):
    with pytest.raises(ValueError, match="`validation_fraction` must be from 0 to below 1"):
        toy_config(tmp_path, validation_fraction=fraction)


def test_a_named_split_makes_the_held_out_share_idle(tmp_path):
    with pytest.warns(NoEffectWarning, match="`validation_fraction` = 0.1 has no effect"):
        toy_config(tmp_path, validation_fraction=0.1, eval_split="test")
