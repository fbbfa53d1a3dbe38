"""Every setting has a group, a help text and, where its values are a fixed set, choices."""

import warnings
from dataclasses import fields
from typing import Literal, Optional

import pytest

from dd_plugin.bilevel.optimizers import OPTIMIZERS
from dd_plugin.cli.distill import add_arguments
from dd_plugin.distiller import DistillerConfig
from dd_plugin.distiller.coercion import choices
from dd_plugin.distiller.setting_descriptions import (
    setting_choices,
    setting_defaults,
    setting_groups,
)
from dd_plugin.distiller.settings import GROUPS
from dd_plugin.recipes import recipe_names, recipe_settings

CHOICES = setting_choices()


def test_every_setting_is_in_one_group_and_the_groups_follow_each_other():
    settings = [field.name for field in fields(DistillerConfig)]
    assert list(setting_groups()) == settings
    assert sum(len(fields(group)) for group in GROUPS.values()) == len(settings)


@pytest.mark.parametrize("field", fields(DistillerConfig), ids=lambda field: field.name)
def test_every_setting_has_a_help_text(field):
    text = field.metadata["help"]
    assert text[0].isupper() or text.startswith(("timm/", "'", "auto:"))
    assert text.endswith(".")
    assert set(field.metadata) == {"help"}  # what a parser of arguments is given


def test_choices_are_read_from_any_spelling_of_the_type():
    either = Literal["a", "b"]
    assert choices(either) == choices(either | None) == choices(Optional[either]) == ("a", "b")  # noqa: UP045
    assert choices(str) == choices(int | None) == choices(list[str] | str) == ()


def test_the_inner_optimizers_are_those_of_the_engine():
    assert CHOICES["inner_optimizer"] == tuple(OPTIMIZERS)


def refusal(name, value):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some settings do nothing alone
        try:
            DistillerConfig(**{name: value})
        except ValueError as error:
            return str(error)
    return ""


@pytest.mark.parametrize(
    ("name", "choice"), [(name, choice) for name, values in CHOICES.items() for choice in values]
)
def test_every_choice_is_accepted(name, choice):
    # Some need another setting, which is said in other words.
    assert f"`{name}` must be one of" not in refusal(name, choice)


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("value", ["nonsense", "", 3, True, ["no"], 1.5, b"no"])
def test_any_other_value_is_refused_with_the_choices_named(name, value):
    none = ", or nothing" if name == "statistics" else ""
    expected = f"`{name}` must be one of {', '.join(CHOICES[name])}{none}, got {value!r}"
    assert refusal(name, value) == expected


@pytest.mark.parametrize("name", sorted(set(CHOICES) - {"statistics"}))
def test_no_value_is_refused_where_there_is_a_default(name):
    assert refusal(name, None).endswith("got None")
    # YAML reads the word no as false.
    assert (refusal(name, False) == "") is ("no" in CHOICES[name])


def test_the_command_lists_the_groups_and_the_choices():
    import argparse

    parser = argparse.ArgumentParser(prog="x")
    add_arguments(parser)
    text = parser.format_help()
    places = [text.index(f"\n{title}:\n") for title in GROUPS]
    assert places == sorted(places)
    for name, values in CHOICES.items():
        assert f"--{name} {{{','.join(values)}}}" in text


def test_defaults_are_as_one_would_type_them():
    defaults = setting_defaults()
    assert list(defaults) == list(setting_groups())
    assert (defaults["verify"], defaults["soft_labels"]) == ("true", "false")
    assert (defaults["model"], defaults["inner_lr"]) == ("timm/dd_convnet", "0.02")
    assert defaults["report_to"] == defaults["augmentation"] == defaults["statistics"] == ""
    plain = {name: text for name, text in defaults.items() if text}
    typed = DistillerConfig(**plain)
    assert typed == DistillerConfig()


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_have_the_order_of_the_settings(name):
    order = list(setting_groups())
    written = list(recipe_settings(name))
    assert written == sorted(written, key=order.index)
