"""SyncBatchNorm in the trainer, whose processes have networks of their own.

Real processes over gloo, as in `together/test_processes.py`.
"""

import json

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn

from dd_plugin.bn import converted_layers, revert_bn
from dd_plugin.bn.local_sync import LocalSyncBatchNorm
from dd_plugin.distiller.networks import Networks
from dd_plugin.evaluation import ordinary
from tests.distiller.toy import toy_distiller
from tests.processes import run_on_two

RUN = """
import json, sys
from dd_plugin.evaluation import ordinary
from tests.distiller.test_networks_sync_batchnorm import SHORT, distilled

for name, value in SHORT.items():
    setattr(ordinary, name, value)
distiller = distilled(sys.argv[1], json.loads(sys.argv[2]))
assert distiller.accelerator.num_processes == 2
distiller.save_model()
distiller.accelerator.end_training()
"""
SHORT = {"MOST_STEPS": 8}


def make():
    """A network with torch's layer and timm's, as for training with DistributedDataParallel."""
    torch_layer = nn.SyncBatchNorm.convert_sync_batchnorm(nn.BatchNorm2d(4))
    timm_layer = timm.layers.convert_sync_batchnorm(timm.layers.BatchNormAct2d(4))
    parts = (nn.Conv2d(1, 4, 3), torch_layer, nn.ReLU(), nn.Conv2d(4, 4, 3), timm_layer)
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(64, 3))


def distilled(folder, options):
    """A run with every kind of evaluation, of which the second process has fewer networks."""
    model_init = make
    if options.get("init") == "fixed":
        torch.manual_seed(0)
        model_init = make()
    else:
        options = {**options, "final_eval_networks": 3}
    options = {"networks_per_step": 2, "baselines": True, **options}
    distiller = toy_distiller(folder, model_init=model_init, **options)
    distiller.train()
    distiller.evaluate(networks=3)
    distiller.compare()
    return distiller


@pytest.mark.parametrize(
    "options",
    [{"statistics": "tracked"}, {"statistics": "learned", "init": "fixed"}],
    ids=["random", "fixed"],
)
def test_two_processes_take_the_steps_of_one(tmp_path, monkeypatch, options):
    out = tmp_path / "out"
    done = run_on_two(RUN, out, out, json.dumps(options))
    assert done.returncode == 0, done.stderr[-3000:]
    for name, value in SHORT.items():
        monkeypatch.setattr(ordinary, name, value)
    alone = distilled(tmp_path / "one", options)
    found = load_file(out / "tensors.safetensors")
    images = alone.synthetic.images().detach()
    torch.testing.assert_close(found["images"], images, rtol=0, atol=1e-10)
    results = json.loads((out / "recipe.json").read_text())["results"]
    assert set(results) == {"distilled", "random real", "full data"}
    for name, scores in alone.results.items():
        assert results[name]["accuracies"] == list(scores.accuracies), name


@pytest.mark.parametrize("mode", ["fixed", "random", "pool"])
def test_no_network_asks_another_process(mode):
    given = make() if mode == "fixed" else make
    networks = Networks(given, mode=mode, num_classes=3, shape=(1, 8, 8), dtype=torch.float64)
    networks.problem()
    networks.take(0, 0)
    model = networks.new_model(1)
    stock = [layer.stock_class for layer in converted_layers(model).values()]
    assert len(stock) == 2
    assert all(issubclass(kind, LocalSyncBatchNorm) for kind in stock)
    reverted = revert_bn(model)
    assert all(
        isinstance(layer, LocalSyncBatchNorm)
        for layer in reverted.modules()
        if isinstance(layer, nn.SyncBatchNorm)
    )
    if mode == "fixed":  # the user's own stays as it was
        assert type(given[1]) is nn.SyncBatchNorm
