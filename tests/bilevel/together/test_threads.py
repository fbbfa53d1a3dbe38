"""What the engine sets for a run is set for its thread only."""

import threading

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dd_plugin.bilevel import hypergradient
from dd_plugin.bilevel.foreign_models.batchnorm import (
    StatisticsRecord,
    differentiable_batch_norm,
    recording,
)
from dd_plugin.bilevel.foreign_models.draws import Draws, drawing_from
from dd_plugin.bilevel.foreign_models.no_grad import no_grad_in_forward_mode
from dd_plugin.bilevel.foreign_models.replay import replayed
from dd_plugin.bn import statistics_in_graph
from dd_plugin.bn.graph_mode import statistics_are_in_graph
from tests.bilevel.problems import hard_batch, soft_batches, worst_error


def elsewhere(function):
    """What a function returns in another thread."""
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: torch.rand(3),
        lambda: torch.randn(3),
        lambda: torch.randperm(5),
        lambda: torch.randint(9, (3,)),
        lambda: torch.empty(3).uniform_(),
        lambda: F.dropout(torch.ones(9), 0.5, True),
        lambda: torch.bernoulli(torch.full((9,), 0.5)),
    ],
)
def test_another_thread_draws_from_the_global_generator(draw):
    torch.manual_seed(1)
    expected = draw()
    draws = Draws(3)
    with replayed(), drawing_from(draws):
        torch.manual_seed(1)
        assert torch.equal(elsewhere(draw), expected)
        assert draws.specs == []
        draw()
        assert len(draws.specs) == 1


def test_a_thread_that_draws_all_the_time_does_not_disturb_a_run():
    model = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.4), nn.Linear(5, 3)).double()
    batches, outer = soft_batches(3, shape=(4,)), hard_batch(shape=(4,))
    expected = hypergradient(model, batches, outer, step_size=0.3)
    done = threading.Event()
    started = threading.Event()

    def loader():
        while not done.is_set():
            F.dropout(torch.rand(7), 0.5, True)
            started.set()

    thread = threading.Thread(target=loader)
    thread.start()
    started.wait()
    try:
        result = hypergradient(model, batches, outer, step_size=0.3)
    finally:
        done.set()
        thread.join()
    assert worst_error(result, expected)[0] == 0


def test_two_runs_at_once():
    def run(index):
        generator = torch.Generator().manual_seed(index)
        model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.4), nn.Linear(5, 3))
        model.double()
        for parameter in model.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator).double()
        images = torch.randn(6, 4, generator=generator).double()
        labels = torch.arange(6) % 3
        return lambda: hypergradient(
            model, [(images, labels)] * 6, (images, labels), step_size=0.1, seed=index
        )

    runs = [run(index) for index in range(2)]
    expected = [one() for one in runs]
    found = [None, None]

    def start(index):
        found[index] = runs[index]()

    threads = [threading.Thread(target=start, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # torch's levels of forward mode are the process's: layers may take another kernel meanwhile.
    for result, reference in zip(found, expected, strict=True):
        assert worst_error(result, reference)[0] < 1e-9


def test_statistics_of_another_thread_are_written_as_ever():
    record, layer = StatisticsRecord(), nn.BatchNorm1d(3)
    with differentiable_batch_norm(), recording(record), statistics_in_graph():
        elsewhere(lambda: layer(torch.randn(5, 3)))
        assert float(layer.running_mean.abs().sum()) > 0
        assert record.latest(layer.running_mean) is layer.running_mean
        assert statistics_are_in_graph()
        assert not elsewhere(statistics_are_in_graph)


def test_forward_mode_of_another_thread_is_its_own():
    def tangent():
        with torch.autograd.forward_ad.dual_level():
            x = torch.autograd.forward_ad.make_dual(torch.ones(2), torch.ones(2))
            with torch.no_grad():
                return torch.autograd.forward_ad.unpack_dual(x * 2).tangent

    with no_grad_in_forward_mode():
        assert torch.equal(elsewhere(tangent), torch.full((2,), 2.0))
