"""What comes back from a run: plain values, whatever went in and however it was computed."""

import dataclasses

import pytest
import torch
from torch.utils import _pytree as pytree

from dd_plugin.bilevel import BilevelProblem, Last, adam, unroll
from tests.bilevel.problems import convnet
from tests.bilevel.runs import BATCHES, run


def tensors_of(result):
    fields = {f.name: getattr(result, f.name) for f in dataclasses.fields(result)}
    fields["batches"] = [(b.images, b.labels) for b in fields.get("batches", {}).values()]
    return [t for t in pytree.tree_leaves(fields) if isinstance(t, torch.Tensor)]


@pytest.mark.parametrize("method", ["mixed", "reverse", "autograd"])
def test_every_tensor_is_detached_and_shaped_like_what_it_is_of(method):
    problem = BilevelProblem(convnet(width=2, blocks=1), optimizer=adam())
    pool = torch.randn(6, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    alpha = torch.full((2,), 0.1, dtype=torch.float64, requires_grad=True)
    result = run(
        [(pool * 1, y) for _, y in BATCHES],
        problem=problem,
        step_size=alpha,
        leaves=[pool],
        window=Last(1),
        method=method,
    )
    assert not any(t.requires_grad or t.grad_fn is not None for t in tensors_of(result))
    assert result.inner_losses.shape == result.step_size.shape == (2,)
    assert (result.start, result.stop, list(result.batches)) == (1, 2, [1])
    assert result.batches[1].images.shape == result.leaves[0].shape == pool.shape
    assert result.batches[1].labels.shape == BATCHES[1][1].shape
    assert result.step_size[0] == 0
    for name in ("parameters", "statistics"):
        shapes = {n: t.shape for n, t in getattr(result, name).items()}
        assert shapes == {n: t.shape for n, t in getattr(result.final, name).items()}
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.finite = False


def test_labels_that_are_indices_have_no_gradient():
    indices = torch.zeros(6, dtype=torch.int64)
    assert run([(BATCHES[0][0], indices)]).batches[0].labels is None


def test_an_unrolled_run_is_detached_too():
    start = convnet(width=2, blocks=1)
    result = unroll(start, BATCHES, step_size=torch.tensor(0.1, requires_grad=True))
    assert not any(t.requires_grad for t in tensors_of(result))
    assert result.inner_losses.shape == (2,)
