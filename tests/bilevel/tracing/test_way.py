"""`dd_plugin.bilevel.tracing.way`: strides follow from shapes; results do not from the layout."""

import pytest
import torch
from torch import nn

from dd_plugin.bilevel import BilevelProblem, Device, adam, hypergradient, sgd
from dd_plugin.bilevel.tracing.compile import CompileWarning
from dd_plugin.bilevel.tracing.way import Way, laid_out
from tests.bilevel.problems import convnet, hard_batch, soft_batches, worst_error


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 1, 1), (2, 1, 4, 5), (1, 1, 1, 1)])
@pytest.mark.parametrize("last", [False, True])
def test_the_strides_of_images_follow_from_their_shape(shape, last):
    images = torch.randn(shape)
    n, c, h, w = shape
    made = [
        images,
        images.contiguous(memory_format=torch.channels_last),
        images.transpose(0, 1).contiguous().transpose(0, 1),
        torch.randn(n, c, h, 2 * w)[..., ::2].copy_(images),
    ]
    results = [laid_out(t, last) for t in made]
    expected = (h * w * c, 1, w * c, c) if last else (c * h * w, h * w, w, 1)
    for result in results:
        assert torch.equal(result, images)
        # `contiguous` leaves the strides of dimensions of size 1 as they are.
        assert last is False or result.stride() == expected
        if min(shape) > 1:
            assert result.stride() == expected


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 3, 4), (2, 3, 4, 5, 6)])
def test_what_has_no_channels_is_contiguous(shape):
    tensor = torch.randn(shape).movedim(0, -1) if shape else torch.randn(())
    assert laid_out(tensor, True).is_contiguous()


def test_what_lies_right_is_not_copied():
    weights = torch.randn(4, 3, 2, 2)
    assert laid_out(weights, False) is weights
    last = laid_out(weights, True)
    assert laid_out(last, True) is last


class Mixed(nn.Module):
    """Layers that look at how a tensor lies: pooling, one pixel, 1x1 and depthwise kernels."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.Softplus(),
            nn.AvgPool2d(2),
            nn.Conv2d(4, 4, 3, padding=1, groups=4),
            nn.GroupNorm(2, 4),
            nn.Conv2d(4, 6, 1),
            nn.Tanh(),
            nn.AvgPool2d(2),
            nn.Conv2d(6, 5, 2),
            nn.Flatten(),
            nn.Linear(5, 3),
        )

    def forward(self, x):
        return self.body(x)


def problem_of(optimizer, **options):
    torch.manual_seed(0)
    return BilevelProblem(Mixed().double(), optimizer=optimizer, channels_last=True, **options)


@pytest.mark.parametrize("activations", [0, 1 << 30])
@pytest.mark.parametrize("optimizer", [sgd(0.9), adam(eps=1e-3)])
def test_the_layout_changes_no_result(optimizer, activations):
    problem = problem_of(optimizer, compile="trace")
    shape = (3, 8, 8)
    batches, outer = soft_batches(3, shape=shape), hard_batch(shape=shape)
    storage = Device(activations=activations)
    result = hypergradient(problem, batches, outer, step_size=0.1, storage=storage)
    assert problem.compiling == "trace"
    # It is not there for nothing: convolutions got what was laid out for them.
    (convolution, *_) = [
        node
        for function in problem.compiled.values()
        if function is not None and hasattr(function, "graph")
        for node in function.graph.graph.nodes
        if node.target is torch.ops.aten.convolution.default
    ]
    assert convolution.meta["val"].stride(1) == 1
    problem.compile = False
    oracle = hypergradient(problem, batches, outer, step_size=0.1, method="autograd")
    assert worst_error(result, oracle)[0] < 1e-9


def test_a_run_may_change_its_layout_on_the_way():
    problem = BilevelProblem(convnet(blocks=1), compile="trace")
    batches, outer = soft_batches(2), hard_batch()
    results = []
    for last in (False, True, False):
        problem.channels_last = last
        results.append(hypergradient(problem, batches, outer, step_size=0.1))
        # What an outer step leaves is of the layout of its own.
    assert worst_error(results[1], results[0])[0] < 1e-9
    assert worst_error(results[2], results[0])[0] == 0
    assert {key[1] for key in problem.compiled} == {Way("trace"), Way("trace", True)}


class Views(nn.Module):
    """A network that is written for contiguous tensors."""

    def __init__(self):
        super().__init__()
        self.convolution, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4 * 36, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.convolution(x)).view(len(x), -1))


def test_a_network_for_contiguous_tensors_goes_on_eagerly_and_says_so():
    problem = BilevelProblem(Views().double(), compile="trace", channels_last=True)
    batches, outer = soft_batches(2, shape=(3, 8, 8)), hard_batch(shape=(3, 8, 8))
    with pytest.warns(CompileWarning, match="view"):
        result = hypergradient(problem, batches, outer, step_size=0.1)
    assert not problem.compiling
    # The other layout is another way.
    problem.channels_last = False
    assert problem.compiling == "trace"
    again = hypergradient(problem, batches, outer, step_size=0.1)
    assert worst_error(result, again)[0] < 1e-9


class ViewsWhenJudged(Views):
    """A network that is written for contiguous tensors in eval mode alone."""

    def forward(self, x):
        features = torch.tanh(self.convolution(x))
        return self.head(features.flatten(1) if self.training else features.view(len(x), -1))


def test_a_network_whose_outer_loss_needs_contiguous_tensors_goes_on_eagerly():
    batches, outer = soft_batches(2, shape=(3, 8, 8)), hard_batch(shape=(3, 8, 8))
    torch.manual_seed(0)
    problem = BilevelProblem(ViewsWhenJudged().double(), compile="trace", channels_last=True)
    with pytest.warns(CompileWarning, match="view"):
        result = hypergradient(problem, batches, outer, step_size=0.1)
    again = hypergradient(problem, batches, outer, step_size=0.1)
    oracle = hypergradient(problem, batches, outer, step_size=0.1, method="autograd")
    assert worst_error(result, oracle)[0] < 1e-9
    assert worst_error(again, oracle)[0] < 1e-9


def test_each_way_is_verified(monkeypatch):
    verified = []
    monkeypatch.setattr(
        "dd_plugin.bilevel.host_reads.verify", lambda problem, **_: verified.append(problem.way)
        or True,
    )  # fmt: skip
    problem = BilevelProblem(convnet(blocks=1), compile="trace")
    batches, outer = soft_batches(2), hard_batch()
    for last in (False, True, False):
        problem.channels_last = last
        for activations in (0, 1 << 30, 1 << 30):
            storage = Device(activations=activations)
            hypergradient(problem, batches, outer, step_size=0.1, storage=storage)
    # Each layout, and its halves.
    assert verified == [Way("trace")] * 2 + [Way("trace", True)] * 2


class Patches(nn.Module):
    """A convolution to one pixel between permutations, as in a ConvNeXt."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 4, stride=4), nn.Conv2d(4, 6, 2)
        self.norm, self.head = nn.LayerNorm(4), nn.Linear(6, 3)

    def forward(self, x):
        x = self.norm(self.first(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.head(torch.tanh(self.last(x)).mean((2, 3)))


@pytest.mark.parametrize("last", [False, True])
def test_products_lie_as_the_convolutions_did(last):
    torch.manual_seed(0)
    problem = BilevelProblem(Patches().double(), compile="trace", channels_last=last)
    batches, outer = soft_batches(2, shape=(3, 8, 8)), hard_batch(shape=(3, 8, 8))
    result = hypergradient(problem, batches, outer, step_size=0.1)
    assert problem.compiling == "trace"
    oracle = hypergradient(problem, batches, outer, step_size=0.1, method="autograd")
    assert worst_error(result, oracle)[0] < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("last", [False, True])
def test_compiled_in_bfloat16_nothing_is_lost(last):
    """The compiler's own layout once gave NaN here, on a processor with matrix units."""
    torch.manual_seed(0)
    layers = []
    for channels in (3, 32):
        layers += [nn.Conv2d(channels, 32, 3, padding=1), nn.BatchNorm2d(32)]
        layers += [nn.ReLU(), nn.AvgPool2d(2)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 64, 10))
    batch = torch.randn(10, 3, 32, 32), torch.arange(10)
    gradients = []
    for autocast in (None, torch.bfloat16):
        problem = BilevelProblem(
            model, compile=True, channels_last=last, autocast=autocast, verify=False
        )
        for activations in (0, 1 << 30):
            storage = Device(activations=activations)
            result = hypergradient(problem, [batch] * 2, batch, step_size=0.01, storage=storage)
            gradients.append(torch.stack([b.images for b in result.batches.values()]).flatten())
        assert problem.compiling is True
    for gradient in gradients[1:]:
        assert torch.isfinite(gradient).all()
        assert torch.cosine_similarity(gradient, gradients[0], dim=0) > 0.95
