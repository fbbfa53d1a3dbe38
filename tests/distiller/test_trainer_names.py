"""`dd_plugin.distiller.trainer_names`: true answers, for names that are not here and are there."""

import dataclasses
import inspect
import re

import pytest
from transformers import Trainer, TrainingArguments

from dd_plugin.distiller import Distiller, DistillerCallback, DistillerConfig
from dd_plugin.distiller.trainer_names import ARGUMENTS, ATTRIBUTES, METHODS, SETTINGS
from tests.distiller.toy import toy_distiller

OURS = {field.name for field in dataclasses.fields(DistillerConfig)}
TAKEN = set(inspect.signature(Distiller).parameters)
ANSWERS = {
    "a setting": SETTINGS,
    "an argument": ARGUMENTS,
    "an attribute": ATTRIBUTES,
    **{f"an argument of {name}": answers for name, answers in METHODS.items()},
}
# Names in backquotes that are of other things than the trainer and its settings.
ELSEWHERE = {"Distiller", "distilled"}


@pytest.fixture(scope="module")
def distiller(tmp_path_factory):
    made = toy_distiller(tmp_path_factory.mktemp("out"))
    yield made
    made.end()


def test_no_name_that_is_taken_here_is_answered(distiller):
    assert not OURS & set(SETTINGS)
    assert not TAKEN & set(ARGUMENTS)
    assert not [name for name in ATTRIBUTES if hasattr(distiller, name)]
    for method, answers in METHODS.items():
        assert not set(inspect.signature(getattr(Distiller, method)).parameters) & set(answers)


def test_every_argument_of_a_trainer_is_taken_or_answered():
    theirs = set(inspect.signature(Trainer).parameters)
    assert theirs - TAKEN - set(ARGUMENTS) == {"args"}  # answered by its value


@pytest.mark.parametrize("method", METHODS)
def test_every_argument_of_a_method_of_both_is_taken_or_answered(method):
    theirs = inspect.signature(getattr(Trainer, method)).parameters
    named = {n for n, p in theirs.items() if p.kind is not p.VAR_KEYWORD and n[0] != "_"}
    ours = set(inspect.signature(getattr(Distiller, method)).parameters)
    assert named <= ours | set(METHODS[method])


@pytest.mark.parametrize("name", ["predict", "add_callback", "get_train_dataloader", "save_state"])
def test_methods_of_a_trainer_are_answered(name):
    assert hasattr(Trainer, name)
    assert name in ATTRIBUTES


@pytest.mark.parametrize(
    "name", ["num_train_epochs", "per_device_train_batch_size", "weight_decay", "bf16", "optim"]
)
def test_arguments_of_training_are_answered(name):
    assert name in {field.name for field in dataclasses.fields(TrainingArguments)}
    assert name in SETTINGS


@pytest.mark.parametrize("answers", ANSWERS.values(), ids=ANSWERS)
def test_what_an_answer_names_is_there(answers, distiller):
    known = OURS | TAKEN | ELSEWHERE | set(vars(DistillerCallback))
    for answer in answers.values():
        for name in re.findall(r"`(?:Distiller\.)?([A-Za-z_]+)(?=[`=(])", answer):
            is_known = name in known or hasattr(distiller, name)
            assert is_known or name in ("print", "DistillerConfig"), (name, answer)


def test_values_that_answers_give_are_possible():
    values = re.findall(r"`(\w+)=([\"\w]+)`", " ".join(SETTINGS.values()))
    assert {name for name, _ in values} >= {"mixed_precision", "compile", "storage", "soft_labels"}
    for name, value in values:
        assert name in OURS
        plain = {"True": True}.get(value, value.strip('"'))
        DistillerConfig(**{name: plain})


def test_an_answer_is_the_end_of_a_sentence():
    for answers in ANSWERS.values():
        for answer in answers.values():
            assert answer == answer.strip()
            assert not answer.endswith((".", ";", ","))
            assert not answer[0].isupper()
