"""Several processes: the gradients of one with all networks; an end for all if one dies.

Real processes over gloo. torchrun starts them where the end of a process is what is tested, and in
`tests/test_examples.py`.
"""

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.distiller.toy import toy_distiller
from tests.processes import run_on_two, run_processes, torchrun

RUN = """
import json, os, sys
from accelerate import PartialState
from dd_plugin.distiller import DistillerCallback
from tests.distiller.toy import toy_distiller

folder, options, dies = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3] == "dies"

if sys.argv[3] == "full disk":
    from dd_plugin.distiller import checkpoint

    def full(tensors, path):
        raise OSError("no space left on device")

    # The main process writes what is shared before the others write their own.
    if int(os.environ["RANK"]) == 0:
        checkpoint.save_file = full

if sys.argv[3] == "finds nothing easy" and int(os.environ["RANK"]) == 1:
    from dd_plugin.evaluation import difficulty

    def refuse(*args, **kwargs):
        raise AssertionError("the second process is asked too")

    difficulty.of_images = refuse

class Dies(DistillerCallback):
    def on_step_end(self, config, state, control, **kwargs):
        if dies and state.global_step == 2 and kwargs["distiller"].accelerator.process_index == 1:
            raise RuntimeError("the second process has had enough")

distiller = toy_distiller(folder, callbacks=[Dies()], networks_per_step=4, **options)
assert distiller.accelerator.num_processes == 2
distiller.train()
distiller.evaluate(networks=3)
distiller.compare()
distiller.save_model()
distiller.accelerator.end_training()
"""


def two_processes(folder, options="{}", how="lives"):
    """Both forked from one process, which is quicker than by a launcher."""
    return run_on_two(RUN, folder / "out", folder / "out", options, how)


def launched(folder, options="{}", how="lives"):
    """Both started by torchrun, as a user would."""
    script = folder / "run.py"
    folder.mkdir(exist_ok=True)
    script.write_text(RUN)
    command = torchrun(script, folder / "out", options, how)
    return run_processes(command, folder / "out")


OPTIONS = {
    "random": {
        "soft_labels": True,
        "augmentation": "flip_rotate",
        "save_steps": 2,
        "compile": "trace",
    },
    "pool": {"init": "pool", "window": "last", "window_length": 2, "pool_size": 2},
    "adaptive": {"window": "adaptive", "window_length": 1},
    "pyramid": {
        "parametrization": "pyramid",
        "augmentation": "noise+flip",
        "augmentations_per_step": 2,
    },
}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Folders of runs of two processes, by the names of their options, each run once."""
    folders = {}

    def run(name):
        if name not in folders:
            folder = tmp_path_factory.mktemp(name)
            done = two_processes(folder, json.dumps(OPTIONS[name]))
            assert done.returncode == 0, done.stderr[-3000:]
            folders[name] = folder / "out"
        return folders[name]

    return run


def largest_error(folder, distiller):
    tensors = load_file(folder / "tensors.safetensors")
    images, sizes = distiller.synthetic.images(), distiller.synthetic.step_sizes()
    pairs = ((tensors["images"], images), (tensors["step_sizes"], sizes))
    return max(float((one - other.detach()).abs().max()) for one, other in pairs)


@pytest.mark.parametrize("name", OPTIONS)
def test_two_processes_with_half_the_networks_each(tmp_path, two, name):
    alone = toy_distiller(tmp_path, networks_per_step=4, **OPTIONS[name])
    alone.train()
    alone.evaluate(networks=3)
    alone.compare()
    assert largest_error(two(name), alone) < 1e-10
    record = json.loads((two(name) / "recipe.json").read_text())
    assert record["results"]["distilled"]["accuracies"] == list(
        alone.results["distilled"].accuracies
    )


@pytest.mark.parametrize("rule", ["herding", "easiest"])
def test_one_process_chooses_the_first_images_of_all(tmp_path, rule):
    options = {"image_init": rule, "images_per_class": 2}
    done = two_processes(tmp_path / "two", json.dumps(options), how="finds nothing easy")
    assert done.returncode == 0, done.stderr[-3000:]
    alone = toy_distiller(tmp_path / "one", networks_per_step=4, **options)
    alone.train()
    assert largest_error(tmp_path / "two" / "out", alone) < 1e-10


def test_a_run_of_two_processes_goes_on_in_one(tmp_path, two):
    alone = toy_distiller(tmp_path, networks_per_step=4, **OPTIONS["random"])
    alone.train(two("random") / "checkpoint-2")
    assert alone.state.global_step == 4
    assert largest_error(two("random"), alone) < 1e-10


def test_a_run_of_one_process_goes_on_in_two(tmp_path):
    options = OPTIONS["random"]
    alone = toy_distiller(tmp_path / "one", networks_per_step=4, **options)
    alone.train()
    resumed = {"resume_from_checkpoint": str(tmp_path / "one" / "checkpoint-2")}
    done = two_processes(tmp_path / "two", json.dumps(options | resumed))
    assert done.returncode == 0, done.stderr[-3000:]
    assert largest_error(tmp_path / "two" / "out", alone) < 1e-10


def test_a_process_that_dies_ends_the_job_with_its_error(tmp_path):
    done = launched(tmp_path / "two", how="dies")
    assert done.returncode != 0
    assert "the second process has had enough" in done.stderr


def test_a_full_disk_costs_the_checkpoint_and_not_the_job(tmp_path):
    done = two_processes(tmp_path / "two", '{"save_steps": 2}', how="full disk")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "no space left on device" in done.stderr
    assert (tmp_path / "two" / "out" / "recipe.json").exists()
    assert not list((tmp_path / "two" / "out").glob("*checkpoint*"))


def test_networks_that_do_not_divide_among_the_processes(tmp_path, monkeypatch):
    from accelerate import Accelerator

    monkeypatch.setattr(Accelerator, "num_processes", 2)
    with pytest.raises(ValueError, match=r"`networks_per_step` must be a multiple of .* 2, got 3"):
        toy_distiller(tmp_path, networks_per_step=3)


def test_the_gradient_is_the_mean_over_networks(tmp_path):
    # One outer step of SGD would need no Adam: compare the gradients themselves.
    both = toy_distiller(tmp_path / "both", networks_per_step=2)
    leaves = list(both.synthetic.leaves()["images"])
    each = [both._outer_step.gradient(0, index, leaves).leaves[0] for index in range(2)]
    seen = []
    both.optimizer.register_step_pre_hook(
        lambda optimizer, args, kwargs: seen.append(leaves[0].grad.clone())
    )
    both.training_step()
    assert torch.allclose(seen[0], (each[0] + each[1]) / 2, rtol=1e-12, atol=0)
