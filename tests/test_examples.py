"""The examples run as they are, and what they say holds."""

import argparse
import importlib
import json
import runpy
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import yaml
from timm.models.resnet import ResNet
from torch import nn

from dd_plugin.cli import main
from dd_plugin.hub.exports import export_image_folder
from dd_plugin.hub.folder import write_set
from dd_plugin.networks.convnet import DDConvNet
from tests.hub.records import a_set
from tests.processes import run_prepared, run_processes
from tests.repository import repository_file

EXAMPLES = repository_file("examples")


def test_forum_forward_backward(capsys):
    path = EXAMPLES / "forum_forward_backward.py"
    assert len(path.read_text().splitlines()) < 40
    names = runpy.run_path(str(path))
    losses = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()]
    # Three outer losses, each well below the one before, from ln 2 = 0.69 of guessing.
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.4
    for name, start in names["problem"].model.constants.items():
        assert not start.equal(names["statistics"][name].detach())
    assert all(p.grad is None for p in names["model"].parameters())


@pytest.fixture
def run_here(monkeypatch):
    """Run an example as a program, but in this process: most of its time would go to imports."""
    monkeypatch.syspath_prepend(str(EXAMPLES / "reproduce"))

    def run(name, *words):
        monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")

    return run


LAUNCHERS = {
    "accelerate": [sys.executable, "-m", "accelerate.commands.launch", "--cpu"],
    "torchrun": [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"],
}


def test_distill_your_own(tmp_path, run_here, capsys):
    pytest.importorskip("sklearn", reason="the digits come with the extra demo")
    run_here("distill_your_own.py", "--output_dir", tmp_path / "out", "--max_steps", 2)
    assert capsys.readouterr().out.count("10 images teach") == 1
    assert (tmp_path / "out" / "preview.png").exists()


# The command is launched by accelerate in `test_recipes`.
@pytest.mark.parametrize(
    "launcher", [pytest.param("accelerate", marks=pytest.mark.slow), "torchrun"]
)
def test_distill_your_own_launched(tmp_path, launcher):
    pytest.importorskip("sklearn", reason="the digits come with the extra demo")
    command = [*LAUNCHERS[launcher], str(EXAMPLES / "distill_your_own.py")]
    command += ["--output_dir", str(tmp_path / "out"), "--max_steps", "2"]
    done = run_processes(command, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("10 images teach") == 1
    assert (tmp_path / "out" / "preview.png").exists()


def test_growing_set(tmp_path, run_here, capsys):
    pytest.importorskip("sklearn", reason="the digits come with the extra demo")
    results = tmp_path / "five.json"
    size = {"tasks": 2, "max_steps": 1, "inner_steps": 2, "width": 4, "depth": 1, "networks": 1}
    words = [word for name, value in size.items() for word in (f"--{name}", value)]
    run_here("growing_set.py", *words, "--real_images", 30, "--compile", "no", "--json", results)
    rows = json.loads(results.read_text())["rows"]
    ways = [(row["way"], row["training"]) for row in rows]
    assert ways[:2] == [("grown", "by the recipe"), ("grown", "plain")]
    assert {way for way, _ in ways} == {"grown", "anew", "merged", "herding", "random"}
    # Equal storage: two images of each of four classes.
    assert {row["images"] for row in rows} == {8}
    assert all(len(row["tasks"]) == 2 for row in rows)
    assert capsys.readouterr().out.count("| herding | plain |") == 1
    # One way can be added or measured again, with the same settings alone.
    again = [*words, "--real_images", 30, "--compile", "no", "--json", results]
    run_here("growing_set.py", *again, "--ways", "random")
    both = [(row["way"], row["training"]) for row in json.loads(results.read_text())["rows"]]
    assert both == ways
    with pytest.raises(SystemExit, match="was made with other settings"):
        run_here("growing_set.py", *again, "--ways", "random", "--seed", 1)


class OneThread(ThreadPoolExecutor):
    """Runs what would be run in processes, which take longer to start than to run."""

    def __init__(self, jobs, **options):
        super().__init__(1)


@pytest.fixture
def reproduce(run_here, monkeypatch):
    """A function that runs a table script at toy size and returns its rows."""
    size = ["--steps", 1, "--inner_steps", 2, "--width", 4, "--networks", 2]

    def run(script, results, *words, processes=False):
        if not processes:
            runs = importlib.import_module("runs")
            monkeypatch.setattr(runs, "ProcessPoolExecutor", OneThread)
        options = [*size, "--compile", "no", "--seeds", 0, *words]
        run_here(f"reproduce/{script}", "digits", "--json", results, *options)
        return json.loads(results.read_text())["rows"]

    return run


def test_reproduce_batchnorm_policies(tmp_path, reproduce):
    pytest.importorskip("sklearn", reason="the digits come with the extra demo")
    results = tmp_path / "results.json"
    case = "tracked, detached from the graph"
    rows = reproduce("batchnorm_policies.py", results, "--cases", "InstanceNorm", case)
    assert [row["case"] for row in rows] == ["InstanceNorm", case]
    assert all(len(row["accuracies"]) == 2 for row in rows)
    # What is there is not made again: it would take another time.
    again = reproduce("batchnorm_policies.py", results, "--cases", "InstanceNorm", case)
    assert again == rows


def test_reproduce_batchnorm_policies_on_a_resnet(tmp_path, reproduce):
    pytest.importorskip("sklearn", reason="the digits come with the extra demo")
    options = ["--network", "resnet18", "--inner_lr", "0.1", "--init", "fixed"]
    cases = ["--cases", "tracked, momentum and correction learned per layer"]
    results = tmp_path / "results.json"
    rows = reproduce("batchnorm_policies.py", results, *options, *cases, processes=True)
    assert [(row["network"], row["inner_lr"]) for row in rows] == [("resnet18", 0.1)]


@pytest.mark.parametrize(
    ("network", "inner_lr", "made"), [("resnet18", 0.1, ResNet), ("dd_convnet", 0.02, DDConvNet)]
)
def test_the_policies_script_trains_the_network_and_step_size_asked_for(
    monkeypatch, network, inner_lr, made
):
    monkeypatch.syspath_prepend(str(EXAMPLES / "reproduce"))
    script = importlib.import_module("batchnorm_policies")
    key = {"case": "statistics of the test batch", "network": network, "inner_lr": inner_lr}
    key |= {"inner_momentum": 0.9}
    key |= {"width": 8, "init": "random", "seed": 0, "steps": 1, "inner_steps": 1}
    key |= {"images_per_class": 1, "networks": 2, "compile": "no"}
    config, make_model = script.make(key, "digits", "out")
    assert (config.inner_lr, config.inner_optimizer_args) == (inner_lr, {"momentum": 0.9})
    assert isinstance(make_model(), made)


@pytest.mark.parametrize(("share", "like"), [(50.0, "batchnorm2d"), (-50.0, "instancenorm2d")])
def test_tasknorm_lies_between_batch_and_image(monkeypatch, share, like):
    monkeypatch.syspath_prepend(str(EXAMPLES / "reproduce"))
    layer = importlib.import_module("batchnorm_policies").TaskNorm(3).double()
    other = {"batchnorm2d": nn.BatchNorm2d(3), "instancenorm2d": nn.InstanceNorm2d(3)}[
        like
    ].double()
    layer.share.data.fill_(share)
    x = torch.randn(5, 3, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(layer(x), other(x))
    if like == "batchnorm2d":
        torch.testing.assert_close(layer.running_mean, other.running_mean)
        # torch's layer keeps the unbiased variance of 80 values.
        expected = 0.9 + (other.running_var - 0.9) * 79 / 80
        torch.testing.assert_close(layer.running_var, expected)


def test_reproduce_recipes(tmp_path, run_here, monkeypatch, capfd):
    pytest.importorskip("sklearn", reason="the digits come with the extra demo")
    recipe, results = tmp_path / "tiny.yaml", tmp_path / "results.json"
    settings = {"dataset": "none", "train_split": "train[:9]", "image_column": "img"}
    settings |= {"max_steps": 2, "inner_steps": 2, "eval_steps": 1, "compile": "no"}
    settings |= {"baselines": False, "final_eval_networks": 1}
    recipe.write_text(yaml.safe_dump(settings))
    words = ["digits", recipe, "--json", results, "--runs", tmp_path / "runs", "--seeds", 0, 1]

    def run(command, **how):
        """What the script runs in a process of its own, here."""
        assert command[:4] == [sys.executable, "-m", "dd_plugin", "distill"]
        assert main(command[3:]) == 0

    monkeypatch.setattr(subprocess, "run", run)
    for _ in range(2):  # the second time all runs are there
        run_here("reproduce/recipes.py", *words)
        said = capfd.readouterr()
    rows = json.loads(results.read_text())
    assert [row["run"] for row in rows] == ["tiny", "tiny_seed1"]
    assert [at["step"] for at in rows[0]["curve"]] == [1]
    assert rows[0]["results"]["distilled"]["mean"] != rows[1]["results"]["distilled"]["mean"]
    assert "step 1 of 2" not in said.out


@pytest.mark.parametrize(
    ("left", "option"),
    [
        ((), None),
        (("log.jsonl",), "--overwrite_output_dir"),
        (("log.jsonl", "checkpoint-5/state.json"), "--resume_from_checkpoint"),
    ],
)
def test_a_recipe_goes_on_from_its_checkpoint_on_the_threads_asked_for(
    tmp_path, monkeypatch, left, option
):
    monkeypatch.syspath_prepend(str(EXAMPLES / "reproduce"))
    script = importlib.import_module("recipes")
    recipe, folder = tmp_path / "tiny.yaml", tmp_path / "runs" / "tiny_seed1"
    recipe.write_text("max_steps: 10")
    for name in left:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    calls = []
    monkeypatch.setattr(subprocess, "run", lambda command, **how: calls.append((command, how)))
    args = argparse.Namespace(dataset="digits", runs=tmp_path / "runs", threads=3)
    assert script.run(recipe, args, 1) == folder
    ((command, how),) = calls
    assert {word for word in command if word.startswith(("--resume", "--overwrite"))} == (
        {option} if option else set()
    )
    assert how["env"]["OMP_NUM_THREADS"] == "3"
    assert how["check"]


def test_as_many_recipes_run_at_a_time_as_asked_for(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES / "reproduce"))
    script = importlib.import_module("recipes")
    # Each run waits for the other: one at a time they would time out.
    both = threading.Barrier(2, timeout=60)
    results = tmp_path / "results.json"

    def run(recipe, args, seed):
        both.wait()
        return tmp_path / f"{recipe.stem}_{seed}"

    monkeypatch.setattr(script, "run", run)
    monkeypatch.setattr(script, "row_of", lambda folder: {"run": folder.name})
    argv = ["recipes.py", "digits", "a.yaml", "--seeds", "0", "1", "--jobs", "2"]
    monkeypatch.setattr(sys, "argv", [*argv, "--json", str(results)])
    script.main()
    assert [row["run"] for row in json.loads(results.read_text())] == ["a_0", "a_1"]


def test_minutes_and_curve_of_a_run_follow_from_its_log(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES / "reproduce"))
    script = importlib.import_module("collect")
    lines = [
        {"step": 60, "outer_steps_per_second": 1.0},
        {"step": 60, "eval_accuracy_mean": 0.5},
        {"step": 120, "outer_steps_per_second": 0.5},
        {"step": 120, "eval_accuracy_mean": 0.75},
        {"step": 150, "outer_steps_per_second": 1.0},
    ]
    minutes, curve = script.curve_of(lines)
    assert minutes == pytest.approx(1 + 2 + 0.5)
    assert [(at["minutes"], at["accuracy"]) for at in curve] == [(1, 0.5), (3, 0.75)]


def test_reproduce_cifar10(tmp_path, reproduce):
    pytest.importorskip("sklearn", reason="the digits come with the extra demo")
    rows = reproduce(
        "cifar10.py", tmp_path / "results.json", "--cases", "both", "--norm", "BatchNorm"
    )
    assert [(row["case"], row["norm"], len(row["accuracies"])) for row in rows] == [
        ("both", "BatchNorm", 2)
    ]


@pytest.fixture(scope="module")
def distilled(tmp_path_factory):
    """A distilled set as it is stored, and the same as an image folder."""
    folder = tmp_path_factory.mktemp("sets")
    synthetic = a_set()
    write_set(folder / "set", synthetic)
    images, names = synthetic.images().detach(), synthetic.recipe.class_names
    export_image_folder(folder / "images", images, synthetic.labels, names)
    return folder


def run_without_dd_plugin(tmp_path, name, *arguments):
    """Run an example in a process in which dd_plugin cannot be imported."""
    code = (
        "import runpy, sys\n"
        "sys.modules['dd_plugin'] = None\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    folder = tmp_path / "program"
    done = run_prepared(code, EXAMPLES / name, *arguments, folder=folder, where=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_use_with_trainer(tmp_path, distilled):
    source = distilled / "set"
    out = run_without_dd_plugin(tmp_path, "use_with_trainer.py", source, "--max_steps", 40)
    # Six images of three brightnesses are learned by heart.
    assert "accuracy on the distilled images themselves: 100.0 %" in out
    config = json.loads((tmp_path / "trained" / "config.json").read_text())
    assert config["id2label"] == {"0": "cat", "1": "dog", "2": "no"}


@pytest.mark.parametrize("kind", ["hfds", "folder"])
def test_use_with_timm(tmp_path, distilled, kind):
    source = f"hfds/{distilled / 'set'}" if kind == "hfds" else distilled / "images"
    out = run_without_dd_plugin(tmp_path, "use_with_timm.py", source, "--size", 8, "--epochs", 30)
    assert out.startswith("6 images of 3 classes, loss at the end: ")
    # Well below ln 3 = 1.10 of guessing.
    assert float(out.split()[-1]) < 0.5
