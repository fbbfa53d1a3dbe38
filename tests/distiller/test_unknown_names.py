"""`dd_plugin.distiller.unknown_names`: unknown names are refused with what to write instead."""

import copy
import inspect
import pickle
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset
from transformers import TrainingArguments

from dd_plugin.distiller import Distiller, DistillerConfig
from dd_plugin.distiller.unknown_names import shown
from tests.distiller.toy import toy_config, toy_dataset, toy_distiller

IMAGES = TensorDataset(torch.rand(6, 1, 8, 8), torch.arange(6) % 2)


def training_arguments(folder, **options):
    return TrainingArguments(output_dir=str(folder), report_to=[], use_cpu=True, **options)


@pytest.fixture
def distiller(tmp_path):
    made = toy_distiller(tmp_path)
    yield made
    made.end()


def refused(make, kind=TypeError):
    with pytest.raises(kind) as error:
        make()
    return str(error.value)


# --- arguments of the trainer ---------------------------------------------------------------------


def test_a_model_and_settings_as_a_trainer_takes_them(tmp_path):
    given = {"model": nn.Linear(2, 2), "args": toy_config(tmp_path)}
    assert refused(lambda: Distiller(**given, train_dataset=toy_dataset())) == (
        "`Distiller` has no argument `model`, got Linear; write `model_init=`, a network, a "
        "function that makes one, or a name. It has no argument `args`, got DistillerConfig; write "
        "`config=`"
    )


def test_training_arguments_are_translated_as_far_as_both_have_them(tmp_path):
    args = training_arguments(
        tmp_path, learning_rate=5e-4, hub_token="hf_secretsecret", max_steps=7
    )
    settings = f"DistillerConfig(output_dir={str(tmp_path)!r}, max_steps=7, learning_rate=0.0005)"
    for make in (
        lambda: Distiller(args=args),
        lambda: Distiller(config=args),
        lambda: Distiller(nn.Linear(2, 2), args),
        lambda: Distiller(args),
    ):
        message = refused(make)
        assert "got TrainingArguments; " in message
        assert message.endswith(f"write `config={settings}`")
        assert "secret" not in message
    message = refused(lambda: DistillerConfig(args))
    assert message.endswith(f"got TrainingArguments; write `{settings}`")


def test_the_translated_settings_are_possible(tmp_path):
    args = training_arguments(tmp_path, warmup_steps=3, save_steps=20, lr_scheduler_type="cosine")
    words = refused(lambda: Distiller(args=args)).partition("write `config=")[2].rstrip("`")
    config = eval(words, {"DistillerConfig": DistillerConfig})
    assert (config.output_dir, config.warmup_steps, config.save_steps) == (str(tmp_path), 3, 20)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_steps": 3}, "got 3; it is a setting: write `config=DistillerConfig(max_steps=3)`"),
        ({"output_dir": "x"}, "write `config=DistillerConfig(output_dir='x')`"),
        (
            {"hub_token": "abc"},
            "got str; it is a setting: write `config=DistillerConfig(hub_token=",
        ),
        ({"num_train_epochs": 3}, "got 3; for `DistillerConfig`: write `max_steps`, the number"),
        ({"compute_metrics": len}, "got the function len; evaluations measure accuracy"),
        ({"processing_class": object()}, "got object; images are prepared by the settings"),
        ({"tokenizer": None}, "`tokenizer`, got None; images are prepared by the settings"),
        ({"optimizers": (None, None)}, "the outer optimizer is Adam"),
        ({"data_collator": dict}, "got the class dict; images and labels are read"),
        ({"train_datasets": 1}, "`train_datasets`, got 1; did you mean train_dataset?"),
        ({"confg": 1}, "`confg`, got 1; did you mean config?"),
        ({"zzz": 1}, "`zzz`, got 1; its arguments are config, model_init, train_dataset"),
        ({"args": {"seed": 1}}, "got dict; write `config=DistillerConfig(...)`"),
    ],
)
def test_other_arguments(given, message):
    said = refused(lambda: Distiller(**given))
    assert message in said
    assert "abc" not in said


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DistillerConfig, "got the class DistillerConfig; write `config=DistillerConfig()`"),
        ({"max_steps": 3}, "got dict; write `config=DistillerConfig(**settings)`"),
        ({}, "got dict; write `config=DistillerConfig(**settings)`"),
        ("run.yaml", "got 'run.yaml'; write `config=DistillerConfig.from_recipe(name)`"),
        (IMAGES, "got TensorDataset; write `train_dataset=` for the images"),
        (3, "`config` must be a DistillerConfig, got int; write `train_dataset=`"),
    ],
)
def test_what_is_no_configuration(config, message):
    assert message in refused(lambda: Distiller(nn.Linear(2, 2), config))


def test_what_is_no_network(tmp_path):
    message = refused(lambda: Distiller(toy_config(tmp_path)))
    assert message.endswith("got DistillerConfig; write `config=`")
    for images in (IMAGES, toy_dataset(), {"train": toy_dataset()}):
        message = refused(lambda given=images: Distiller(given))
        assert message.endswith(
            f"got {type(images).__name__}; write `train_dataset=` for the images"
        )


# --- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("num_train_epochs", 3, "got 3; write `max_steps`, the number of outer steps"),
        ("per_device_train_batch_size", 8, "got 8; write `real_batch_size`, the number of real"),
        ("bf16", True, 'got True; write `mixed_precision="bf16"`'),
        ("evaluation_strategy", "steps", "got 'steps'; write `eval_steps`, the number of outer"),
        ("weight_decay", 0.1, "the inner optimizer is set by `inner_optimizer`"),
        ("push_to_hub_token", "hf_secretsecret", "got str; write `hub_token`"),
        ("learning_rte", 0.1, "got 0.1; did you mean learning_rate?"),
        ("zzz", "x" * 100, "got str; `dd-plugin distill --help-all` lists the settings"),
    ],
)
def test_settings_that_there_are_not(name, value, message):
    said = refused(lambda: DistillerConfig(output_dir="x", **{name: value}))
    assert said.startswith(f"`DistillerConfig` has no setting `{name}`, ")
    assert message in said
    assert "secret" not in said


def test_settings_of_a_recipe_and_of_a_copy_are_answered_too():
    message = refused(lambda: DistillerConfig.from_recipe("mnist_random_ipc1", num_train_epochs=3))
    assert "has no setting `num_train_epochs`" in message
    assert "has no setting `epochs`" in refused(lambda: replace(DistillerConfig(), epochs=3))


def test_a_subclass_adds_settings():
    @dataclass
    class Mine(DistillerConfig):
        epochs: int = 1

    assert Mine(epochs=3, max_steps=7).max_steps == 7


def test_the_signatures_stay_what_they_are():
    assert "max_steps" in inspect.signature(DistillerConfig).parameters
    assert list(inspect.signature(Distiller).parameters)[:2] == ["model_init", "config"]
    assert list(inspect.signature(Distiller.evaluate).parameters) == ["self", "networks"]
    assert (Distiller.train.__doc__ or "").startswith("Run the outer steps")
    config = DistillerConfig(max_steps=7)
    assert copy.deepcopy(config) == pickle.loads(pickle.dumps(config)) == config


# --- methods and attributes -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        (
            "evaluate",
            {"eval_dataset": IMAGES},
            "`eval_dataset`, got TensorDataset; write `Distiller(",
        ),
        ("evaluate", {"metric_key_prefix": "test"}, "got 'test'; the results are named"),
        ("evaluate", {"network": 2}, "got 2; did you mean networks?"),
        ("train", {"trial": None}, "got None; compare runs with `dd-plugin compare RUN RUN`"),
        ("train", {"resume": True}, "got True; it takes resume_from_checkpoint"),
        ("train", {"resume_from_checkpoints": True}, "did you mean resume_from_checkpoint?"),
        ("save_model", {"_internal_call": True}, "got True; it takes output_dir"),
        ("push_to_hub", {"commit_message": "x"}, "`dd-plugin push --commit_message` takes one"),
        ("push_to_hub", {"token": "abc"}, "got str; write `DistillerConfig(hub_token=...)`"),
    ],
)
def test_arguments_of_methods(method, given, message, distiller):
    said = refused(lambda: getattr(distiller, method)(**given))
    assert said.startswith(f"`Distiller.{method}` has no argument ")
    assert message in said


@pytest.mark.parametrize("networks", [IMAGES, "test", 1.5])
def test_evaluate_takes_a_number_of_networks_and_no_images(networks, distiller):
    message = refused(lambda: distiller.evaluate(networks))
    assert message.startswith(f"`networks` must be a whole number, got {type(networks).__name__}; ")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("args", "`Distiller` has no attribute `args`; its settings are `config`"),
        ("predict", "to classify images, write `save_model()`; then, with `distilled ="),
        ("model", "each step trains networks of its own"),
        ("add_callback", "give `callbacks=[...]` to `Distiller`"),
        ("save_pretrained", "`save_pretrained`; write `save_model()`"),
    ],
)
def test_attributes_of_a_trainer(name, message, distiller):
    assert not hasattr(distiller, name)
    assert message in refused(lambda: getattr(distiller, name), AttributeError)


def test_other_attributes_are_missing_as_in_any_class(distiller):
    message = refused(lambda: distiller.evalute, AttributeError)
    assert message == "'Distiller' object has no attribute 'evalute'"
    with pytest.raises(AttributeError) as error:
        distiller.evalute  # noqa: B018
    assert error.value.name == "evalute"  # by which Python suggests `evaluate`


class WithModel(Distiller):
    """A trainer with attributes of the names that are answered."""

    @property
    def predict(self):
        return self.nothing_of_that_name

    def model(self):
        return "mine"


def test_what_a_subclass_has_is_its_own(tmp_path):
    mine = toy_distiller(tmp_path, kind=WithModel)
    mine.args = 3
    assert (mine.model(), mine.args) == ("mine", 3)
    # The error of a property is not hidden behind an answer.
    message = refused(lambda: mine.predict, AttributeError)
    assert message == "'WithModel' object has no attribute 'nothing_of_that_name'"
    mine.end()


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("a", 1.5, "1.5"),
        ("a", "hf_abcdefghij", "'hf_...'"),
        ("a_token", "abc", "str"),
        ("a", "x" * 99, "str"),
        ("a", int, "the class int"),
        ("a", len, "the function len"),
        ("a", [1], "list"),
    ],
)
def test_values_in_a_message_are_short_and_no_secrets(name, value, text):
    assert shown(name, value) == text
