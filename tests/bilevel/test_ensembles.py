import pytest
import torch

from dd_plugin.bilevel import (
    BilevelProblem,
    Device,
    adam,
    hypergradient,
    hypergradients,
    initial_state,
    sgd,
)
from dd_plugin.bn import convert_bn
from tests.bilevel.problems import convnet, hard_batch, relative_error, soft_batches


def _problem(optimizer, count=3, dropout=0.0, compile=False, blocks=2):
    blocks = 1 if compile else blocks  # the larger, the longer to trace
    networks = (convnet(width=2, dropout=dropout, blocks=blocks) for _ in range(count))
    models = [convert_bn(network, "tracked") for network in networks]
    problem = BilevelProblem(models[0], optimizer=optimizer, compile=compile)
    return problem, [initial_state(problem, model) for model in models]


@pytest.mark.parametrize("mode", ["sequential", "batched"])
@pytest.mark.parametrize("optimizer", [sgd(0.9), adam()])
def test_an_ensemble_is_the_mean_of_its_networks(mode, optimizer):
    problem, networks = _problem(optimizer)
    batches, outer = soft_batches(3), hard_batch()
    step_size = torch.full((3,), 0.05, dtype=torch.float64)
    found = hypergradients(problem, batches, outer, networks, mode=mode, step_size=step_size)
    single = [
        hypergradient(problem, batches, outer, initial=state, step_size=step_size)
        for state in networks
    ]
    count = len(networks)
    assert relative_error(found.mean.outer_loss, sum(r.outer_loss for r in single) / count) < 1e-10
    assert relative_error(found.outer_losses, torch.stack([r.outer_loss for r in single])) < 1e-10
    for k in range(3):
        expected = sum(r.batches[k].images for r in single) / count
        assert relative_error(found.mean.batches[k].images, expected) < 1e-9
        expected = sum(r.batches[k].labels for r in single) / count
        assert relative_error(found.mean.batches[k].labels, expected) < 1e-9
    assert relative_error(found.mean.step_size, sum(r.step_size for r in single) / count) < 1e-9
    for name, bar in found.mean.constants.items():
        assert relative_error(bar, sum(r.constants[name] for r in single) / count) < 1e-9
    for index, alone in enumerate(single):
        assert relative_error(found.parameters[index], alone.parameters) < 1e-9
        assert relative_error(found.finals[index].parameters, alone.final.parameters) < 1e-10
    assert found.mean.inner_losses.shape == (3, count)


@pytest.mark.parametrize("mode", ["sequential", "batched"])
@pytest.mark.parametrize("compile", [False, "trace"])
def test_leaves_of_the_outer_batch_get_the_mean(mode, compile):
    problem, networks = _problem(sgd(0.9), compile=compile)
    batches, (images, _) = soft_batches(2), hard_batch()
    scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    logits = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    batches = [(x * scale, y) for x, y in batches]
    outer = [(images[:2] * scale, logits[:2].softmax(1)), (images[2:], logits[2:].softmax(1))]
    options = {"step_size": 0.05, "leaves": [scale, logits]}
    found = hypergradients(problem, batches, outer, networks, mode=mode, **options).mean
    single = [hypergradient(problem, batches, outer, initial=s, **options) for s in networks]
    for index, leaf in enumerate(found.leaves):
        expected = sum(r.leaves[index] for r in single) / len(networks)
        assert float(expected.abs().max()) > 1e-4
        assert relative_error(leaf, expected) < 1e-9
    assert problem.compiling == compile


@pytest.mark.parametrize("mode", ["sequential", "batched"])
@pytest.mark.parametrize("compile", [False, "trace"])
@pytest.mark.parametrize("kept", [0, 1 << 30])
def test_each_network_is_judged_on_its_own_part(mode, compile, kept):
    problem, networks = _problem(adam(), compile=compile)
    (images, labels), batches = hard_batch(size=12), soft_batches(3)
    images.requires_grad_()
    options = {"step_size": 0.05, "leaves": [images], "storage": Device(activations=kept)}
    found = hypergradients(
        problem, batches, (images, labels), networks, mode=mode, split_outer_batch=True, **options
    )
    single = [
        hypergradient(problem, batches, part, initial=state, **options)
        for state, *part in zip(networks, images.chunk(3), labels.chunk(3), strict=True)
    ]
    assert relative_error(found.outer_losses, torch.stack([r.outer_loss for r in single])) < 1e-10
    for k in range(3):
        expected = sum(r.batches[k].images for r in single) / 3
        assert relative_error(found.mean.batches[k].images, expected) < 1e-9
    expected = sum(r.leaves[0] for r in single) / 3
    assert relative_error(found.mean.leaves[0], expected) < 1e-9
    with pytest.raises(ValueError, match="equally many images for each of the 3 networks"):
        hypergradients(
            problem, batches, (images[:7], labels[:7]), networks, mode=mode,
            split_outer_batch=True, step_size=0.05,
        )  # fmt: skip


def test_batched_networks_draw_their_own_random_numbers():
    problem, networks = _problem(sgd(), count=2, dropout=0.5)
    same = [networks[0], networks[0]]
    found = hypergradients(
        problem, soft_batches(2), hard_batch(), same, mode="batched", step_size=0.1
    )
    first, second = found.finals
    assert relative_error(first.parameters, second.parameters) > 1e-3
    again = hypergradients(
        problem, soft_batches(2), hard_batch(), same, mode="sequential", step_size=0.1
    )
    first, second = again.finals
    assert relative_error(first.parameters, second.parameters) > 1e-3


def test_traced_networks_draw_the_numbers_of_eager_ones():
    # It falls back to eager with a warning, an error here, where it cannot be traced.
    found = []
    for compile in (False, "trace"):
        torch.manual_seed(0)
        problem, networks = _problem(sgd(), count=2, dropout=0.5, compile=compile, blocks=1)
        options = {"mode": "batched", "step_size": 0.1, "seed": 3}
        both = hypergradients(problem, soft_batches(2), hard_batch(), networks, **options)
        assert problem.compiled["batched", 2, False].compiling == compile
        found.append(both)
    eager, traced = found
    assert relative_error(traced.outer_losses, eager.outer_losses) < 1e-10
    assert relative_error(traced.mean.batches[0].images, eager.mean.batches[0].images) < 1e-9
    assert relative_error(traced.parameters[1], eager.parameters[1]) < 1e-9


def test_errors():
    problem, networks = _problem(sgd(), count=1)
    batches, outer = soft_batches(1), hard_batch()
    with pytest.raises(ValueError, match="at least one state"):
        hypergradients(problem, batches, outer, [], step_size=0.1)
    with pytest.raises(ValueError, match="`mode` must be"):
        hypergradients(problem, batches, outer, networks, mode="x", step_size=0.1)
    with pytest.raises(ValueError, match='use mode="sequential"'):
        hypergradients(
            problem, batches, outer, networks, mode="batched", method="reverse", step_size=0.1
        )


def test_what_cannot_be_batched_is_told_with_the_way_out():
    layer = torch.nn.utils.parametrizations.spectral_norm(torch.nn.Linear(192, 3))
    problem = BilevelProblem(torch.nn.Sequential(torch.nn.Flatten(), layer).double())
    batches, outer = soft_batches(2), hard_batch()
    hypergradient(problem, batches, outer, step_size=0.1)  # finds out what the network moves
    networks = [initial_state(problem)] * 2
    with pytest.raises(RuntimeError) as error:
        hypergradients(problem, batches, outer, networks, mode="batched", step_size=0.1)
    assert any('mode="sequential"' in note for note in error.value.__notes__)
