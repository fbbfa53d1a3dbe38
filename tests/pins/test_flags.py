"""The options of every command are those of the file."""

import warnings

import pytest

from tests.pins import flags

STORED = flags.stored()
CHOICES = {name: s["choices"] for name, s in STORED["settings"].items() if "choices" in s}


@pytest.mark.parametrize("command", STORED["commands"])
def test_the_options_of_a_command(command):
    found = flags.options()
    assert list(found) == list(STORED["commands"])
    assert found[command] == STORED["commands"][command]


def test_the_settings_and_their_defaults():
    found = flags.settings()
    for name, expected in STORED["settings"].items():
        assert found.get(name) == expected, name
    assert set(found) == set(STORED["settings"])


def test_every_setting_is_an_option_of_distill():
    beside = {"config", "debug", "dry_run", "resume"}
    options = set(STORED["commands"]["distill"]) - beside
    assert set(STORED["settings"]) == {name.removeprefix("no_") for name in options}


@pytest.mark.parametrize("name", CHOICES)
def test_a_setting_takes_its_choices_and_no_other_value(name):
    unknown = flags.refusal(name, "nonsense")
    assert all(word in unknown for word in [name, *CHOICES[name]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some do nothing alone
        for choice in CHOICES[name]:  # or go with other settings only, which is said otherwise
            assert flags.refusal(name, choice) != unknown.replace("nonsense", choice)
