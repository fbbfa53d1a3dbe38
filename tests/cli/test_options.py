"""`dd_plugin.cli.options`: what transformers' parser makes of the same fields, read without it."""

import argparse
import re

import pytest
from transformers import HfArgumentParser

from dd_plugin import DistillerConfig
from dd_plugin.cli import main
from dd_plugin.cli.options import COMMON, add_settings, string_to_bool
from dd_plugin.cli.parser import Parser
from dd_plugin.distiller.setting_descriptions import setting_defaults, setting_groups
from dd_plugin.distiller.settings import GROUPS


@pytest.fixture
def parser():
    made = Parser()
    add_settings(made)
    return made


def described(action):
    """Spelling, destination and number of values of an option. The command takes hyphens itself."""
    return action.option_strings[0], action.dest, action.nargs, action.const


def test_options_are_those_of_the_parser_of_transformers(parser):
    theirs = [a for a in HfArgumentParser(DistillerConfig)._actions if a.dest != "help"]
    ours = [a for a in parser._actions if a.dest not in ("help", "help_all")]
    # Once a switch, and still one: both words go on to work.
    theirs = [a for a in theirs if a.dest != "baselines"]
    ours = [a for a in ours if a.dest != "baselines"]
    # The fields of a dataclass stand in the order of its bases, options in that of the groups.
    assert sorted(map(str, map(described, ours))) == sorted(map(str, map(described, theirs)))


def test_options_stand_in_groups(parser):
    titles = [group.title for group in parser._action_groups[-len(GROUPS) :]]
    assert titles == list(GROUPS)


def test_what_is_not_typed_has_no_value(parser):
    assert vars(parser.parse_args([])) == {}


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["--max_steps", "3"], {"max_steps": 3}),
        (["--max_steps=3"], {"max_steps": 3}),
        (["--inner_lr", "1e-3"], {"inner_lr": 1e-3}),
        (["--image_size", "8"], {"image_size": 8}),
        (["--soft_labels"], {"soft_labels": True}),
        (["--soft_labels", "off"], {"soft_labels": False}),
        (["--no_baselines"], {"baselines": False}),
        (["--baselines"], {"baselines": ["auto"]}),
        (["--baselines", "false"], {"baselines": ["false"]}),
        (["--baselines", "herding", "k_center"], {"baselines": ["herding", "k_center"]}),
        (["--report_to", "tensorboard", "wandb"], {"report_to": ["tensorboard", "wandb"]}),
        (["--model", "a", "b", "--model", "c"], {"model": ["a", "b", "c"]}),
        (["--model_args", '{"width": 3}'], {"model_args": '{"width": 3}'}),
        # Refused by the settings, in the same words everywhere.
        (["--window", "sometimes"], {"window": "sometimes"}),
        (["--statistics", "frozen"], {"statistics": "frozen"}),
    ],
)
def test_values(parser, words, values):
    assert vars(parser.parse_args(words)) == values


@pytest.mark.parametrize("word", ["yes", "TRUE", "t", "y", "1", "on"])
def test_words_for_true(word):
    assert string_to_bool(word) is True


@pytest.mark.parametrize("word", ["no", "False", "f", "n", "0", "off"])
def test_words_for_false(word):
    assert string_to_bool(word) is False


def test_another_word_is_neither():
    with pytest.raises(argparse.ArgumentTypeError, match="must be true or false, got 'maybe'"):
        string_to_bool("maybe")


def options_in(text):
    return re.findall(r"^  --(\w+)", text, re.MULTILINE)


def test_the_help_shows_common_options_in_their_groups(parser):
    text = parser.format_help()
    shown = [name for name in options_in(text) if not name.startswith("no_")]
    assert sorted(shown) == sorted(("help_all", *COMMON))
    titles = re.findall(r"^([A-Z].*):$", text, re.MULTILINE)
    assert titles == list(dict.fromkeys(setting_groups()[name] for name in COMMON))
    assert "--compile {auto,no,trace,inductor}" in text
    assert "(default: auto)" in text


@pytest.mark.parametrize("spelled", ["--help_all", "--help-all"])
def test_all_options_with_defaults_and_choices(capsys, spelled):
    with pytest.raises(SystemExit) as end:
        main(["distill", spelled])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert set(setting_groups()) < set(options_in(text))
    assert re.findall(r"^([A-Z].*):$", text, re.MULTILINE) == list(GROUPS)
    assert "--window {full,last,random,adaptive}" in text
    words = " ".join(text.split())
    for default in filter(None, setting_defaults().values()):
        assert f"(default: {default})" in words


def test_a_plain_parser_takes_them_as_well():
    made = argparse.ArgumentParser()
    add_settings(made)
    assert vars(made.parse_args(["--seed", "3"])) == {"seed": 3}
