"""A run for heads in two processes: shared features, the same set as one process makes."""

import json

import pytest
from safetensors.torch import load_file

from tests.distiller.toy import Small, head_distiller
from tests.processes import run_on_two

RUN = """
import json, sys
from pathlib import Path
from tests.distiller.toy import Small, head_distiller

options = json.loads(sys.argv[2])
run = head_distiller(Path(sys.argv[1]), [Small(6, seed=1), Small(5, seed=2)], **options)
assert run.accelerator.num_processes == 2
run.train()
run.evaluate()
run.compare()
run.save_model()
run.end()
"""

SETTINGS = {
    "networks_per_step": 2,
    "soft_labels": True,
    "dtype": "float64",
    "feature_copies": 2,
    "augmentation": "flip+noise",
    "save_steps": 2,
}


HEADS = {"ridge": {}, "unroll": {"head": "unroll", "inner_steps": 3}}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Folders of runs of two processes, by their heads, each run once."""
    folders = {}

    def run(name):
        if name not in folders:
            folders[name] = two_processes(tmp_path_factory.mktemp(name), **HEADS[name])
        return folders[name]

    return run


def two_processes(folder, **options):
    settings = json.dumps({**SETTINGS, **options})
    done = run_on_two(RUN, folder / "out", folder, settings)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "out"


def alone(folder, **options):
    models = [Small(6, seed=1), Small(5, seed=2)]
    return head_distiller(folder, models, **{**SETTINGS, **options})


def check_same(folder, run):
    found = load_file(folder / "tensors.safetensors")
    assert float((found["images"] - run.synthetic.images()).abs().max().detach()) < 1e-9
    assert float((found["soft_labels"] - run.synthetic.targets()).abs().max().detach()) < 1e-9
    record = json.loads((folder / "recipe.json").read_text())
    results = {name: scores["accuracies"] for name, scores in record["results"].items()}
    assert results == {name: list(scores.accuracies) for name, scores in run.results.items()}


@pytest.mark.parametrize("head", HEADS)
def test_two_processes_with_a_backbone_each(tmp_path, two, head):
    # A file for the training images and one for the test images, of each backbone.
    assert len(list((two(head) / "features").iterdir())) == 4
    run = alone(tmp_path, **HEADS[head])
    run.train()
    run.compare()
    check_same(two(head), run)


def test_a_run_of_two_processes_goes_on_in_one(tmp_path, two):
    run = alone(tmp_path)
    run.train(two("ridge") / "checkpoint-2")
    run.compare()
    assert run.state.global_step == 4
    check_same(two("ridge"), run)
