"""`dd_plugin.distiller.evaluating`: the baselines beside the distilled set."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from dd_plugin.evaluation import comparison, ordinary
from tests.distiller.toy import toy_distiller


class Noisy(nn.Module):
    """Dropout, and stochastic depth that draws with Python's generator."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(64, 8), nn.Linear(8, 3)

    def forward(self, x):
        hidden = nn.functional.dropout(self.first(x.flatten(1)).relu(), 0.5, self.training)
        skipped = self.training and random.random() < 0.3
        return self.head(hidden * 0.5 if skipped else hidden)


@pytest.mark.parametrize("init", ["random", "fixed"])
def test_baselines_are_functions_of_their_seeds(tmp_path, monkeypatch, init):
    monkeypatch.setattr(ordinary, "MOST_STEPS", 20)
    trained = []

    def noted(network, batches):
        trained.append({name: t.detach().clone() for name, t in network.state_dict().items()})
        return 0.5

    monkeypatch.setattr(comparison, "accuracy_of_module", noted)
    given = Noisy if init == "random" else Noisy()
    distiller = toy_distiller(tmp_path, model_init=given, init=init, baselines=True)
    for seed in (1, 2):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - it is the global one that is looked at
        before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1])  # noqa: NPY002
        distiller.compare()
        assert torch.equal(before[0], torch.get_rng_state())
        assert before[1] == random.getstate()
        assert np.array_equal(before[2], np.random.get_state()[1])  # noqa: NPY002
    first, again = trained[: len(trained) // 2], trained[len(trained) // 2 :]
    assert len(first) == 2 * distiller.config.final_eval_networks
    for one, other in zip(first, again, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    weights = torch.stack([network["head.weight"] for network in first])
    assert len(torch.unique(weights, dim=0)) == len(first)
