"""The recipes of the package: possible, listed, found by name, and in a record by name."""

import json
import subprocess
import sys

import pytest

from dd_plugin import Distiller, DistillerConfig
from dd_plugin.cli import main
from dd_plugin.recipes import recipe_names, recipe_settings, recipe_summary, recipe_text
from tests.gpu.runs import pictures
from tests.repository import ROOT

TOY = {"max_steps": 1, "inner_steps": 2, "groups": 1, "images_per_class": 1, "batching": "all"}


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_are_possible_and_have_no_idle_option(name):
    # Warnings are errors here: an option without effect would fail.
    config = DistillerConfig.from_recipe(name)
    assert config.output_dir.endswith(name)
    assert config.recipe_name == name


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_say_what_they_are_and_how_to_run_them(name):
    text = recipe_text(name)
    assert f" distill recipe:{name}\n" in text
    summary = recipe_summary(name)
    assert summary.endswith(".")
    assert "\n" not in summary
    assert 40 < len(summary) < 240


def test_a_summary_ends_with_its_sentence_and_not_within_a_name():
    summary = recipe_summary("rat_bptt_cifar10_ipc10")
    assert summary.startswith("RaT-BPTT (Feng et al., arXiv 2311.07025): CIFAR-10 in 10 images")
    assert summary.endswith("per class.")
    assert recipe_summary("wang2018_fixed").startswith("Wang et al. 2018 (arXiv 1811.10959), fixed")


def test_overrides_go_over_a_recipe_and_leave_it_alone():
    before = recipe_settings("wang2018_fixed")
    config = DistillerConfig.from_recipe("wang2018_fixed", max_steps=7, seed=3)
    assert (config.max_steps, config.seed, config.inner_lr) == (7, 3, before["inner_lr"])
    assert recipe_settings("wang2018_fixed") == before
    assert config.with_model("timm/resnet18").recipe_name == "wang2018_fixed"
    assert DistillerConfig().recipe_name is None
    assert DistillerConfig().with_model("timm/resnet18").recipe_name is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wang2018_fixd", "no recipe 'wang2018_fixd'; did you mean 'wang2018_fixed'"),
        ("", "there are cifar10_cpu_ipc1, cifar10_cpu_ipc10,"),
        ("zzz", "no recipe 'zzz'; there are cifar10_cpu_ipc1,"),
        ("../recipes/wang2018_fixed", "no recipe"),
        ("wang2018_fixed.yaml", "did you mean 'wang2018_fixed'"),
    ],
)
def test_an_unknown_recipe_is_an_error_that_helps(name, message):
    with pytest.raises(ValueError, match="there is no recipe") as caught:
        DistillerConfig.from_recipe(name)
    assert message in str(caught.value)


def test_the_name_is_in_the_record_of_a_run(tmp_path):
    folder = tmp_path / "out"
    small = {"model_args": {"width": 4, "depth": 2, "norm_layer": "batchnorm2d"}}
    off = {
        "compile": "no",
        "eval_steps": 0,
        "save_steps": 0,
        "baselines": False,
        "disable_tqdm": True,
    }
    config = DistillerConfig.from_recipe(
        "mnist_transfer_ipc10", **{**TOY, "batching": "groups", "inner_steps": 1}, **small, **off,
        real_batch_size=8, output_dir=str(folder), eval_split=None,
    )  # fmt: skip
    run = Distiller(None, config, pictures(40, 0))
    run.train()
    run.save_model()
    about = json.loads((folder / "recipe.json").read_text())["about"]
    assert about["recipe_name"] == "mnist_transfer_ipc10"
    assert about["config"]["max_steps"] == 1


# The command.


def test_the_command_runs_a_recipe_under_its_module(tmp_path, capsys, digits_of_recipe):
    folder = tmp_path / "out"
    assert main(["distill", "recipe:mnist_fixed_1_step", *digits_of_recipe(folder)]) == 0
    about = json.loads((folder / "recipe.json").read_text())["about"]
    assert about["recipe_name"] == "mnist_fixed_1_step"
    assert about["config"]["dataset"] == "digits"
    assert about["config"]["soft_labels"] is True  # of the recipe


@pytest.fixture
def digits_of_recipe():
    pytest.importorskip("sklearn", reason="the digits come with the extra demo")

    def options(folder):
        given = {
            "dataset": "digits",
            "train_split": "train",
            "eval_split": "validation",
            "max_steps": 2,
            "eval_steps": 0,
            "save_steps": 0,
            "load_best_model_at_end": "false",
            "final_eval_networks": 1,
            "baselines": "false",
            "image_size": 28,
            "real_batch_size": 16,
            "disable_tqdm": "true",
            "output_dir": folder,
        }
        return [f"--{name}={value}" for name, value in given.items()]

    return options


def test_accelerate_launches_a_recipe(tmp_path, digits_of_recipe):
    folder = tmp_path / "out"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes=1"]
    launch += ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
    words = ["-m", "dd_plugin", "distill", "recipe:mnist_fixed_1_step", *digits_of_recipe(folder)]
    done = subprocess.run(launch + words, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    record = json.loads((folder / "recipe.json").read_text())
    assert record["about"]["recipe_name"] == "mnist_fixed_1_step"
