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


def test_a_head_is_trained_on_a_network_that_is_given_with_its_weights():
    def trainable(**options):
        return DistillerConfig(**options).trainable

    weights = {"model": "timm/resnet18", "model_args": {"pretrained": True}}
    assert trainable(**weights) == trainable(model="lite/efficientnet_lite0") == "head"
    both = {"model": ["timm/resnet18", "lite/efficientnet_lite0"]}
    assert trainable(**both, model_args={"pretrained": True}) == "head"
    assert DistillerConfig(**weights).to_dict()["trainable"] == "head"
    # A whole network: nothing is said of weights, or of all networks, or it is said to be trained.
    assert trainable(model="timm/resnet18") == trainable() == "all"
    assert trainable(**{**weights, "model_args": {"pretrained": False}}) == "all"
    assert trainable(**both) == "all"
    assert trainable(**weights, trainable="all") == trainable(**weights, init="fixed") == "all"
    assert trainable(**weights, batching="groups") == trainable(**weights, normalization="zca")
    assert trainable(**weights, step_sizes="per_layer") == "all"
    # With other arguments it is not the network that was pretrained.
    args = {"pretrained": True, "drop_rate": 0.1}
    assert trainable(model="timm/resnet18", model_args=args) == "all"
    head = DistillerConfig(model="lite/efficientnet_lite0")
    assert head.with_model("timm/resnet18").trainable == "all"
