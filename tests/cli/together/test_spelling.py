"""Options are taken with underscores and with hyphens, by every command."""

import argparse
import inspect

import pytest

from dd_plugin import cli
from dd_plugin.cli import _COMMANDS, _parser, _with_underscores, main
from dd_plugin.hub import DistilledDataset


def options(command):
    parser = _parser([command])
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return [
        (action, string)
        for action in commands.choices[command]._actions
        for string in action.option_strings
        if string.startswith("--")
    ]


@pytest.mark.parametrize("command", _COMMANDS)
def test_both_spellings_of_every_option(command):
    found = options(command)
    assert len(found) >= 2  # --help and --debug
    declared = {string for _, string in found}
    for _, string in found:
        for spelled in (string, "--" + string[2:].replace("_", "-")):
            for word in (spelled, f"{spelled}=a-b"):
                name, *value = _with_underscores([word])[0].split("=")
                assert name in declared
                assert value in ([], ["a-b"])
        assert "--" + string[2:].replace("-", "_") in declared


@pytest.mark.parametrize("spelled", ["--train_with", "--train-with"])
def test_inspect_takes_both(spelled, capsys):
    assert main(["inspect", "timm/test_resnet", spelled, "running", "--json"]) == 0
    assert '"train_with": "running"' in capsys.readouterr().out


def test_values_are_left_as_they_are():
    words = ["push", "a-b", "--commit-message", "a - b", "--license=cc-by-4.0", "-x-y", "--"]
    assert _with_underscores([*words, "--not-an-option"]) == [
        "push", "a-b", "--commit_message", "a - b", "--license=cc-by-4.0", "-x-y", "--",
        "--not-an-option",
    ]  # fmt: skip
    assert _with_underscores(["--a text-with-dashes", "--x=--y-z"]) == [
        "--a text-with-dashes",
        "--x=--y-z",
    ]


def test_what_the_design_promises_of_push_to_hub():
    parameters = inspect.signature(DistilledDataset.push_to_hub).parameters
    assert list(parameters)[:4] == ["self", "repo_id", "private", "token"]
    assert (parameters["private"].default, parameters["token"].default) == (False, None)
    assert cli.__doc__


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        ({}, {"private": None, "token": None}),
        ({"private": True, "token": "t"}, {"private": True, "token": "t"}),
        ({"private": False, "revision": "b"}, {"private": None, "token": None, "revision": "b"}),
    ],
)
def test_what_push_to_hub_passes_on(monkeypatch, given, passed):
    calls = []
    monkeypatch.setattr(
        "dd_plugin.hub.written.push_folder", lambda *args, **options: calls.append((args, options))
    )
    distilled = DistilledDataset.__new__(DistilledDataset)
    distilled.folder = "folder"
    distilled.push_to_hub("me/it", **given)
    assert calls == [(("folder", "me/it"), passed)]
