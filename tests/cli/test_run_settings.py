"""Settings of a run: from a recipe or a YAML file, under the options of the command."""

import json

import pytest

from dd_plugin.cli import main
from dd_plugin.cli.errors import CommandError
from dd_plugin.cli.run_settings import settings_from_yaml
from dd_plugin.recipes import recipe_names, recipe_summary


def test_the_command_lists_the_recipes_one_a_line(capsys):
    assert main(["distill", "recipe:"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [f"recipe:{name}" for name in recipe_names()]
    assert all(recipe_summary(line.split()[0][7:]) in line for line in lines)


def test_a_misspelled_recipe_gets_the_close_ones(capsys):
    assert main(["distill", "recipe:mnist_randm_ipc1", "--seed", "1"]) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert "there is no recipe 'mnist_randm_ipc1'; did you mean recipe:mnist_random_ipc1" in line
    assert printed.out == ""


def test_a_recipe_like_no_other_gets_the_list(capsys):
    assert main(["distill", "recipe:zzz"]) == 2
    *listed, last = capsys.readouterr().err.splitlines()
    assert len(listed) == len(recipe_names())
    assert last.endswith("there is no recipe 'zzz'; the recipes are listed above")


def test_options_of_the_command_go_over_the_recipe(tmp_path, capsys):
    # What is wrong is said of the value of the option; the recipe's is possible.
    words = ["distill", "recipe:wang2018_fixed", f"--output_dir={tmp_path}", "--inner_steps=0"]
    assert main(words) == 2
    assert "--inner_steps must be at least 1, got 0" in capsys.readouterr().err


def test_settings_from_yaml_and_flags_before_them(tmp_path, capsys, digits):
    settings = tmp_path / "run.yaml"
    folder = tmp_path / "out"
    settings.write_text(
        f"output_dir: {folder}\nmax_steps: 3\ninner_steps: 4\nimages_per_class: 2\n"
        "baselines: false\ndisable_tqdm: true\nfinal_eval_networks: 1\ncompile: no\n"
    )
    assert main(["distill", str(settings), "--max_steps=2"]) == 0
    record = json.loads((folder / "recipe.json").read_text())
    assert record["about"]["config"]["max_steps"] == 2
    assert record["recipe"]["steps"] == 4
    assert "baselines" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("inner_stepz: 3", r"unknown options \['inner_stepz'\]; did you mean 'inner_steps'\?"),
        (
            "max_step: 3\nbf16: true\nepochs: 3",
            r"unknown options \['bf16', 'epochs', 'max_step'\]; did you mean 'max_steps'\?; "
            "for 'bf16': write `mixed_precision=bf16`; for 'epochs': write `max_steps`, the number",
        ),
        ("- a\n- b", "must hold `option: value` lines, got list"),
        ("a: [", "run.yaml, line 1 cannot be read as YAML"),
    ],
)
def test_files_that_hold_no_settings(tmp_path, content, message):
    settings = tmp_path / "run.yaml"
    settings.write_text(content)
    with pytest.raises(CommandError, match=message):
        settings_from_yaml(str(settings))


def test_an_option_without_effect_is_told(tmp_path, capsys, digits):
    words = [f"--output_dir={tmp_path}", "--groups=2", "--inner_steps=0"]
    assert main(["distill", *words]) == 2
    words = [f"--output_dir={tmp_path}", "--groups=2", "--model=timm/nope"]
    assert main(["distill", *words]) == 2
    assert "warning: `groups` = 2 has no effect" in capsys.readouterr().err
    words = [f"--output_dir={tmp_path}", "--eval_networks=2", "--model=timm/nope"]
    assert main(["distill", *words]) == 2
    assert "has no effect" not in capsys.readouterr().err
    assert main(["distill", *words, "--eval_steps=0"]) == 2
    assert "warning: `eval_networks` = 2 has no effect" in capsys.readouterr().err
