"""A run for one fixed start: what its file has of the network is the network that it had."""

import pytest
import torch
from torch import nn

from dd_plugin.hub import DistilledDataset, DistilledFormatError
from tests.distiller.toy import toy_dataset, toy_distiller
from tests.hub.toy import change_tensors


class Masked(nn.Module):
    """Attention of four tokens, each to itself and those before it."""

    def __init__(self):
        super().__init__()
        self.tokens, self.head = nn.Linear(16, 6), nn.Linear(24, 3)
        self.register_buffer("mask", torch.full((4, 4), -torch.inf).triu(1))
        self.register_buffer("widest", torch.tensor(torch.inf))

    def forward(self, x):
        tokens = self.tokens(x.flatten(1).view(len(x), 4, 16)).minimum(self.widest)
        weights = (tokens @ tokens.transpose(1, 2) + self.mask).softmax(-1)
        return self.head((weights @ tokens).flatten(1))


def test_a_fixed_start_with_infinite_buffers_is_read_as_it_was(tmp_path):
    network = Masked()
    distiller = toy_distiller(tmp_path, model_init=network, init="fixed", max_steps=1)
    distiller.train()
    distiller.compare()
    distiller.save_model()
    distilled = DistilledDataset.from_pretrained(tmp_path)
    expected = {name: t.double() for name, t in network.state_dict().items()}
    assert distilled.initial.keys() == expected.keys()
    assert all(torch.equal(distilled.initial[name], t) for name, t in expected.items())
    scores = distilled.evaluate(Masked, toy_dataset(30, seed=1))
    assert scores.accuracies == distiller.results["distilled"].accuracies
    for value in (torch.nan, -torch.nan):
        change_tensors(tmp_path, **{"initial.mask": torch.full((4, 4), value)})
        with pytest.raises(DistilledFormatError, match=r"'initial\.mask' has values .* numbers"):
            DistilledDataset.from_pretrained(tmp_path)
    change_tensors(tmp_path, **{"initial.mask": None, "step_sizes": torch.tensor(torch.inf)})
    with pytest.raises(DistilledFormatError, match="'step_sizes' has values that are not finite"):
        DistilledDataset.from_pretrained(tmp_path)


def test_a_fixed_start_that_could_not_be_read_is_refused(tmp_path):
    network = Masked()
    network.widest.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"'widest' has values that are not numbers \(NaN\); give"):
        toy_distiller(tmp_path, model_init=network, init="fixed")
