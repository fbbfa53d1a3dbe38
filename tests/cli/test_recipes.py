"""`dd-plugin recipes`: listed, shown and copied without heavy imports."""

import subprocess
import sys

import pytest
import yaml

from dd_plugin.cli import main
from dd_plugin.recipes import recipe_names, recipe_settings, recipe_summary


def test_every_recipe_has_a_line(capsys):
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == recipe_names()
    for line, name in zip(lines, recipe_names(), strict=True):
        assert line.endswith(recipe_summary(name))


@pytest.mark.parametrize("spelled", ["mnist_random_ipc1", "recipe:mnist_random_ipc1"])
def test_a_recipe_is_shown_as_the_settings_that_it_is(capsys, spelled):
    assert main(["recipes", spelled]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == recipe_settings("mnist_random_ipc1")


def test_a_copy_holds_the_same_settings(tmp_path, capsys):
    for place in (tmp_path / "own.yaml", tmp_path):
        assert main(["recipes", "mnist_random_ipc1", str(place)]) == 0
    for name in ("own.yaml", "mnist_random_ipc1.yaml"):
        copied = tmp_path / name
        assert yaml.safe_load(copied.read_text()) == recipe_settings("mnist_random_ipc1")
        assert f"`dd-plugin distill {copied}`" in capsys.readouterr().out or name != "own.yaml"


def test_a_file_of_the_user_is_not_replaced(tmp_path, capsys):
    own = tmp_path / "own.yaml"
    own.write_text("seed: 1\n")
    assert main(["recipes", "mnist_random_ipc1", str(own)]) == 2
    assert "exists and is not replaced" in capsys.readouterr().err
    assert own.read_text() == "seed: 1\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["mnist_random_ipc2"], "did you mean 'mnist_random_ipc1'"),
        (["zzz"], "there are cifar10_cpu_ipc1,"),
        (["mnist_random_ipc1", "no/such/folder/x.yaml"], "could not be written"),
    ],
)
def test_a_mistake_is_one_line(capsys, words, told):
    assert main(["recipes", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert told in captured.err
    assert captured.err.count("\n") == 1


def test_nothing_heavy_is_imported():
    code = """
import sys
from dd_plugin.cli import main
main(["recipes"])
print(*({"torch", "numpy", "timm", "transformers"} & set(sys.modules)), file=sys.stderr)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert result.stderr.strip() == ""
