import warnings

import pytest

from dd_plugin.distiller import DistillerConfig


def test_the_defaults_are_possible_and_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = DistillerConfig()
    assert config.model_args == {"width": 32, "depth": 2, "norm_layer": "batchnorm2d"}


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
