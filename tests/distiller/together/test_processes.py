"""Several processes: the gradients of one with all networks; an end for all if one dies.

Real processes over gloo, started by torchrun as a user would.
"""

import json
import sys

import pytest
import torch
from safetensors.torch import load_file

from tests.distiller.toy import toy_distiller
from tests.processes import run_processes

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


def torchrun(folder, options="{}", how="lives"):
    script = folder / "run.py"
    folder.mkdir(exist_ok=True)
    script.write_text(RUN)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["--master_port", "0", "--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"]
    command += [str(script), str(folder / "out"), options, how]
    return run_processes(command, folder / "out")


@pytest.mark.parametrize(
    "options",
    [
        '{"soft_labels": true, "augmentation": "flip_rotate", "save_steps": 2}',
        '{"init": "pool", "window": "last", "window_length": 2, "pool_size": 2}',
        '{"parametrization": "pyramid", "augmentation": "noise+flip", "augmentations_per_step": 2}',
    ],
    ids=["random", "pool", "pyramid"],
)
def test_two_processes_with_half_the_networks_each(tmp_path, options):
    done = torchrun(tmp_path / "two", options)
    assert done.returncode == 0, done.stderr[-3000:]
    alone = toy_distiller(tmp_path / "one", networks_per_step=4, **json.loads(options))
    alone.train()
    alone.evaluate(networks=3)
    alone.compare()
    found = load_file(tmp_path / "two" / "out" / "tensors.safetensors")
    error = (found["images"] - alone.synthetic.images()).abs().max().detach()
    assert float(error) < 1e-10
    assert float((found["step_sizes"] - alone.synthetic.step_sizes()).abs().max().detach()) < 1e-10
    record = json.loads((tmp_path / "two" / "out" / "recipe.json").read_text())
    assert record["results"]["distilled"]["accuracies"] == list(
        alone.results["distilled"].accuracies
    )


@pytest.mark.parametrize("fewer", [True, False], ids=["two to one", "one to two"])
def test_a_run_goes_on_with_another_number_of_processes(tmp_path, fewer):
    options = {"soft_labels": True, "augmentation": "flip_rotate", "save_steps": 2}
    alone = toy_distiller(tmp_path / "one", networks_per_step=4, **options)
    if fewer:
        done = torchrun(tmp_path / "two", json.dumps(options))
        alone.train(tmp_path / "two" / "out" / "checkpoint-2")
    else:
        alone.train()
        resumed = {"resume_from_checkpoint": str(tmp_path / "one" / "checkpoint-2")}
        done = torchrun(tmp_path / "two", json.dumps(options | resumed))
    assert done.returncode == 0, done.stderr[-3000:]
    assert alone.state.global_step == 4
    found = load_file(tmp_path / "two" / "out" / "tensors.safetensors")
    error = (found["images"] - alone.synthetic.images()).abs().max().detach()
    assert float(error) < 1e-10


def test_a_process_that_dies_ends_the_job_with_its_error(tmp_path):
    done = torchrun(tmp_path / "two", how="dies")
    assert done.returncode != 0
    assert "the second process has had enough" in done.stderr


def test_a_full_disk_costs_the_checkpoint_and_not_the_job(tmp_path):
    done = torchrun(tmp_path / "two", '{"save_steps": 2}', how="full disk")
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
