"""A layer that is used twice in a pass: its second use sees what the first has moved, ungraded."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dd_plugin.bilevel import BilevelProblem, cross_entropy, hypergradient, sgd, unroll
from dd_plugin.bn import convert_bn
from tests.bilevel.problems import hard_batch, soft_batches, worst_error


class UsedTwice(nn.Module):
    def __init__(self, momentum=0.3):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3, momentum=momentum)
        self.head = nn.Linear(3, 3)

    def forward(self, x):
        for _ in range(2):
            x = torch.tanh(self.norm(self.conv(x)))
        return self.head(x.mean((2, 3)))


class TrainedAndUsed(nn.Module):
    """Moves its statistics and then normalizes with them, in one pass."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("variance", torch.ones(3))
        self.head = nn.Linear(3, 3)

    def forward(self, x):
        x = self.conv(x)
        y = F.batch_norm(x, self.mean, self.variance, training=self.training)
        z = F.batch_norm(x, self.mean, self.variance)
        return self.head((y * z).tanh().mean((2, 3)))


@pytest.mark.parametrize("compile", [False, "trace"])
def test_stock_statistics_that_are_used_in_the_pass_that_moves_them(compile):
    torch.manual_seed(0)
    model = TrainedAndUsed().double()
    batches, outer = soft_batches(3), hard_batch()
    problem = BilevelProblem(model, optimizer=sgd(0.9), compile=compile)
    whole = hypergradient(problem, batches, outer, step_size=0.1, method="autograd")
    for method in ("mixed", "reverse"):
        result = hypergradient(problem, batches, outer, step_size=0.1, method=method)
        assert worst_error(result, whole)[0] < 1e-9
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model.train()
    for images, labels in batches:
        optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()
        optimizer.step()
    for name, p in model.named_parameters():
        torch.testing.assert_close(whole.final.parameters[name], p.detach(), rtol=1e-10, atol=1e-12)


def network(train_with, momentum):
    torch.manual_seed(0)
    model = convert_bn(UsedTwice(momentum).double(), "tracked", train_with)
    for name, buffer in model.named_buffers():
        if name.endswith(("momentum_shift", "mean_correction", "var_correction")):
            buffer.fill_(0.2)
    return model


@pytest.mark.parametrize("momentum", [0.3, None])
@pytest.mark.parametrize("train_with", ["running", "batch"])
def test_a_step_is_that_of_plain_training(train_with, momentum):
    model = network(train_with, momentum)
    batches = soft_batches(3)
    problem = BilevelProblem(model, optimizer=sgd())
    outer = hard_batch()
    eager = unroll(problem, batches, step_size=0.1).final
    whole = hypergradient(problem, batches, outer, step_size=0.1, method="autograd")
    traced = unroll(
        BilevelProblem(model, optimizer=sgd(), compile="trace"), batches, step_size=0.1
    ).final
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model.train()
    for images, labels in batches:
        optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()
        optimizer.step()
    for name, p in model.named_parameters():
        for run in (eager, whole.final, traced):
            torch.testing.assert_close(run.parameters[name], p.detach(), rtol=1e-10, atol=1e-12)
    for name, t in whole.final.statistics.items():
        torch.testing.assert_close(t, model.get_buffer(name), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("train_with", ["running", "batch"])
@pytest.mark.parametrize("compile", [False, "trace"])
def test_every_method_gives_the_same(train_with, compile):
    model = network(train_with, 0.3)
    batches, outer = soft_batches(3), hard_batch()
    problem = BilevelProblem(model, optimizer=sgd(0.9), compile=compile)
    whole = hypergradient(problem, batches, outer, step_size=0.1, method="autograd")
    for method in ("mixed", "reverse"):
        result = hypergradient(problem, batches, outer, step_size=0.1, method=method)
        assert worst_error(result, whole)[0] < 1e-9
