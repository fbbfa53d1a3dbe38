"""`dd-plugin merge`: several sets become one."""

import shlex

import pytest

from dd_plugin import DistilledDataset
from dd_plugin.cli import main
from dd_plugin.hub.folder import write_set
from tests.hub.sets import synthetic_set


@pytest.fixture
def sets(tmp_path):
    write_set(tmp_path / "a", synthetic_set(6, 0))
    write_set(tmp_path / "b", synthetic_set(4, 1, classes=("up", "down")))
    write_set(tmp_path / "c", synthetic_set(3, 2))
    return [str(tmp_path / name) for name in "abc"]


def test_merge(sets, tmp_path, capsys):
    output = str(tmp_path / "out")
    assert main(["merge", *sets[:2], "--output", output]) == 0
    assert f"10 images of 5 classes written to {output}" in capsys.readouterr().out
    merged = DistilledDataset.from_pretrained(output)
    assert merged.class_names == ("left", "right", "middle", "up", "down")


def test_the_printed_command_can_be_pasted(sets, tmp_path, capsys):
    output = str(tmp_path / "my Vögel")
    assert main(["merge", *sets[:2], "--output", output]) == 0
    command = capsys.readouterr().out.partition("test them with: ")[2]
    data = ["--dataset", "FOLDER", "--split", "test"]
    assert shlex.split(command) == ["dd-plugin", "evaluate", output, *data]


def test_errors_are_in_the_words_of_the_command(sets, tmp_path, capsys):
    words = ["merge", *sets, "--output", str(tmp_path / "out")]
    assert main(words) == 2
    assert "give --same_classes. If not" in capsys.readouterr().err
    assert main([*words, "--same-classes"]) == 0
    assert main([*words, "--same-classes"]) == 2
    assert "--output must be new or empty" in capsys.readouterr().err
    assert main(["merge", str(tmp_path), sets[0], "--output", str(tmp_path / "x")]) == 2
    assert "is not a distilled set" in capsys.readouterr().err
