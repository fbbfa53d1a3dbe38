import warnings

import pytest

from dd_plugin.distiller import DistillerConfig, NoEffectWarning


def test_the_defaults_are_possible_and_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = DistillerConfig()
    assert config.model_args == {"width": 32, "depth": 2, "norm_layer": "batchnorm2d"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init": "some"}, "`init` must be one of fixed, random, pool, got 'some'"),
        ({"statistics": "x"}, "`statistics` must be one of"),
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
        ({"color_space": "lab"}, "`color_space` must be one of rgb, decorrelated, got 'lab'"),
        (
            {"init": "pool", "window": "last", "window_length": 2, "pool_max_steps": 10},
            "`pool_max_steps` must be at least `inner_steps` = 20, got 10",
        ),
        ({"init": "pool"}, "a full unroll is not what is differentiated"),
        ({"push_to_hub": True}, "`hub_dataset_id` must be given"),
        ({"save_total_limit": 0}, "`save_total_limit` must be at least 1 or None"),
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


def test_dictionaries_may_be_json():
    config = DistillerConfig(model_args='{"width": 8}', inner_optimizer_args='{"momentum": 0.9}')
    assert config.model_args == {"width": 8}
    assert config.inner_optimizer_args == {"momentum": 0.9}


def test_the_token_is_in_no_record():
    config = DistillerConfig(push_to_hub=True, hub_dataset_id="me/it", hub_token="secret")
    assert "secret" not in str(config.to_dict())


def test_numbers_as_yaml_reads_them():
    config = DistillerConfig(learning_rate="1e-3", max_steps=50.0, max_grad_norm=2)
    assert (config.learning_rate, config.max_steps, config.max_grad_norm) == (1e-3, 50, 2.0)
    assert type(config.max_steps) is int
    assert DistillerConfig(report_to="tensorboard").report_to == ["tensorboard"]
    for options, message in (
        ({"max_steps": 2.5}, "`max_steps` must be a whole number, got 2.5"),
        ({"learning_rate": "fast"}, "`learning_rate` must be a finite number, got 'fast'"),
        ({"networks_per_step": -2}, "`networks_per_step` must be at least 1 or None, got -2"),
    ):
        with pytest.raises(ValueError, match=message):
            DistillerConfig(**options)


def test_another_model_leaves_the_defaults_of_the_first():
    assert DistillerConfig().with_model("timm/resnet18").model_args == {}
    own = DistillerConfig(model_args={"width": 4})
    assert own.with_model("timm/dd_convnet").model_args == {"width": 4}
