"""Settings: each has a help text; a fixed set of values is all that is accepted."""

import warnings
from dataclasses import fields

import pytest

from dd_plugin.distiller import DistillerConfig
from dd_plugin.distiller.setting_descriptions import (
    setting_choices,
    setting_groups,
)
from dd_plugin.recipes import recipe_names, recipe_settings

CHOICES = setting_choices()

# Choices that may be left to others.
BY_DEFAULT_NONE = {"statistics", "statistics_corrections"}


@pytest.mark.parametrize("field", fields(DistillerConfig), ids=lambda field: field.name)
def test_every_setting_has_a_help_text(field):
    text = field.metadata["help"]
    assert text[0].isupper() or text.startswith(("timm/", "'", "auto:"))
    assert text.endswith(".")
    assert set(field.metadata) == {"help"}  # what a parser of arguments is given


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
    none = ", or nothing" if name in BY_DEFAULT_NONE else ""
    expected = f"`{name}` must be one of {', '.join(CHOICES[name])}{none}, got {value!r}"
    suggestion = refusal(name, value).removeprefix(expected)
    assert suggestion == "" or (
        value == "nonsense"
        and suggestion.startswith("; did you mean '")
        and suggestion.endswith("'?")
    )


@pytest.mark.parametrize("name", sorted(set(CHOICES) - BY_DEFAULT_NONE))
def test_no_value_is_refused_where_there_is_a_default(name):
    assert refusal(name, None).endswith("got None")
    # YAML reads the word no as false.
    assert (refusal(name, False) == "") is ("no" in CHOICES[name])


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_have_the_order_of_the_settings(name):
    order = list(setting_groups())
    written = list(recipe_settings(name))
    assert written == sorted(written, key=order.index)
