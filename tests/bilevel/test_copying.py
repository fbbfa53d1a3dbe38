"""Models whose weights are computed before each forward pass: copies, and hypergradients."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from dd_plugin.bilevel import BilevelProblem, hypergradient
from dd_plugin.bilevel.copying import copy_model, copy_structure
from dd_plugin.networks.fresh import fresh_network

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")


def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2))
    return model.double()


def pruned(model):
    prune.random_unstructured(model[0], "weight", 0.5)
    prune.l1_unstructured(model[3], "bias", 1)
    return model


def pruned_twice(model):
    prune.ln_structured(model[3], "weight", 1, 2, 0)
    prune.random_unstructured(model[3], "weight", 0.25)
    return model


def weight_normed(model):
    nn.utils.weight_norm(model[0])
    nn.utils.weight_norm(model[3], dim=None)
    return model


def spectral_normed(model):
    nn.utils.spectral_norm(model[3])
    model(IMAGES)  # leaves a weight with a graph
    return model.eval()


IMAGES = torch.randn(4, 1, 4, 4, dtype=torch.float64)
LABELS = torch.tensor([0, 1, 0, 1])
MAKERS = [pruned, pruned_twice, weight_normed, spectral_normed]


@pytest.mark.parametrize("make", MAKERS)
def test_a_copy_computes_the_same_and_shares_nothing(make):
    model = make(network())
    with pytest.raises(RuntimeError, match="graph leaves"):  # why this is here
        copy.deepcopy(model)
    copied = copy_model(model)
    torch.testing.assert_close(copied.eval()(IMAGES), model.eval()(IMAGES))
    copied.train()(IMAGES).sum().backward()
    assert all(p.grad is None for p in model.parameters())
    own = {t.data_ptr() for t in [*model.parameters(), *model.buffers()]}
    assert not own & {t.data_ptr() for t in [*copied.parameters(), *copied.buffers()]}
    shared = copy_structure(model)
    assert own == {t.data_ptr() for t in [*shared.parameters(), *shared.buffers()]}


@pytest.mark.parametrize("make", MAKERS)
def test_a_fresh_network_of_it_is_a_copy(make):
    model = make(network()).eval()
    fresh = fresh_network(model, 0, 2, (1, 4, 4))
    torch.testing.assert_close(fresh.eval()(IMAGES), model(IMAGES))


@pytest.mark.parametrize("compile", [False, "trace"])
@pytest.mark.parametrize("make", [pruned, pruned_twice, weight_normed])
def test_their_hypergradients_are_exact(make, compile):
    model = make(network())
    before = {n: t.clone() for n, t in model.state_dict().items()}
    problem = BilevelProblem(model, compile=compile)
    run = ([(IMAGES, LABELS)] * 3, (IMAGES, LABELS))
    expected = hypergradient(BilevelProblem(model), *run, step_size=0.1, method="autograd")
    found = hypergradient(problem, *run, step_size=0.1)
    assert found.method == "mixed"
    for step, gradient in expected.batches.items():
        assert gradient.images.abs().max() > 0
        torch.testing.assert_close(
            found.batches[step].images, gradient.images, rtol=1e-9, atol=1e-13
        )
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    model(IMAGES)


def test_any_other_computed_tensor_is_named_with_what_to_do():
    model = network()
    model[3].scale = model[3].weight * 2
    for copies in (copy_model, copy_structure, BilevelProblem):
        with pytest.raises(TypeError, match=r"`model\.3\.scale` is a tensor .* `\.?model\.3"):
            copies(model)
    model[3].scale = model[3].scale.detach()
    assert copy_model(model)[3].scale.shape == (2, 12)


def test_a_copy_needs_no_hooks():
    class Plain(nn.Linear):
        def __getattribute__(self, name):
            if name == "_forward_pre_hooks":
                raise AttributeError(name)
            return super().__getattribute__(name)

    assert copy_model(Plain(2, 2)).weight.shape == (2, 2)
