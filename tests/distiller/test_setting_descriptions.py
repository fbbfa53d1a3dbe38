"""`dd_plugin.distiller.setting_descriptions`: group, default and choices of each setting."""

from dataclasses import fields

import pytest

from dd_plugin.bilevel.optimizers import OPTIMIZERS
from dd_plugin.cli.distill import add_arguments
from dd_plugin.distiller import DistillerConfig
from dd_plugin.distiller.setting_descriptions import (
    setting_choices,
    setting_defaults,
    setting_groups,
)
from dd_plugin.distiller.settings import GROUPS

CHOICES = setting_choices()


def test_every_setting_is_in_one_group_and_the_groups_follow_each_other():
    settings = [field.name for field in fields(DistillerConfig)]
    assert list(setting_groups()) == settings
    assert sum(len(fields(group)) for group in GROUPS.values()) == len(settings)


def test_the_inner_optimizers_are_those_of_the_engine():
    assert CHOICES["inner_optimizer"] == tuple(OPTIMIZERS)


def test_the_command_lists_the_groups_and_the_choices(capsys):
    import argparse

    parser = argparse.ArgumentParser(prog="x")
    add_arguments(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--help_all"])
    text = capsys.readouterr().out
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
