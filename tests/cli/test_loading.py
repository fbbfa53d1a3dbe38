"""The options of a command that say how a distilled set is loaded, and what comes of them."""

import argparse

import pytest
import torch

from dd_plugin.cli.loading import add_loading_arguments, load_set
from dd_plugin.hub import DistilledDataset
from dd_plugin.hub.limits import DistilledFormatError
from tests.hub.toy import change_record, change_tensors, write_toy


def arguments(*words):
    parser = argparse.ArgumentParser()
    add_loading_arguments(parser)
    return parser.parse_args(words)


def test_a_folder_is_loaded(tmp_path):
    assert load_set(str(write_toy(tmp_path)), arguments()).folder == tmp_path


@pytest.mark.parametrize("words", [[], ["--revision", "v1", "--token", "t"]])
def test_options_are_passed_on(monkeypatch, words):
    calls = []
    monkeypatch.setattr(
        DistilledDataset, "from_pretrained", lambda *args, **options: calls.append((args, options))
    )
    load_set("me/it", arguments(*words))
    revision, token = words[1::2] or (None, None)
    assert calls == [(("me/it",), {"revision": revision, "token": token})]


def test_limits_are_kept_unless_they_are_given_up(tmp_path):
    folder = str(write_toy(tmp_path))
    change_tensors(tmp_path, step_sizes=torch.tensor(0.1))
    change_record(tmp_path, lambda record: record["recipe"].update(steps=100_001))
    with pytest.raises(DistilledFormatError, match="--no_limits"):
        load_set(folder, arguments())
    assert load_set(folder, arguments("--no_limits")).recipe.steps == 100_001
