"""What is read of a run on its way: whether it is finite, and whether it did the same twice."""

from types import SimpleNamespace

import pytest
import torch

from dd_plugin.bilevel.host_reads import HostReads, all_finite
from tests.gpu.without_data import META, WithoutData


class Batches:
    """What is noted of batches: whether they were the same both times."""

    def __init__(self):
        self.alike, self.checked = [], []

    def repeats(self):
        return [torch.tensor(value) for value in self.alike]

    def check_repeats(self, read):
        self.checked.append(read)
        self.alike = []


def reads():
    batches = Batches()
    return HostReads(SimpleNamespace(batches=batches)), batches


def losses(*values):
    return [torch.tensor(value, dtype=torch.float64) for value in values]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    ("inner", "outer", "first"),
    [
        ([1, "bad", "bad"], 1.0, 1),
        (["bad"], "bad", 0),
        ([1, 2], "bad", None),  # the outer loss is of no step
        ([[1.0, 2.0], [1.0, "bad"]], 1.0, 1),  # one of several networks is enough
    ],
)
def test_the_first_step_with_a_loss_that_is_not_finite_is_told(bad, inner, outer, first):
    def value(tree):
        return [value(part) for part in tree] if isinstance(tree, list) else number(tree)

    def number(entry):
        return bad if entry == "bad" else float(entry)

    run, _ = reads()
    assert run.finite is None
    assert run.is_to_stop([torch.tensor(value(step)) for step in inner], torch.tensor(value(outer)))
    assert (run.finite, run.first_nonfinite) == (False, first)


def test_a_result_is_finite_if_its_losses_and_all_its_tensors_are():
    def finish(result, *inner):
        run, _ = reads()
        run.is_to_stop(losses(*inner), torch.tensor(1.0))
        return run.finish(result), run.finite, run.first_nonfinite

    result = {"weights": torch.ones(3), "empty": torch.empty(0), "counts": [torch.zeros(2), None]}
    assert finish(result, 1, 2) == (True, True, None)
    assert finish(result, 1, float("nan")) == (False, False, 1)
    result["counts"][0][1] = float("nan")
    assert finish(result, 1, 2) == (False, True, None)


def test_on_a_gpu_all_is_read_at_once_at_the_end():
    run, batches = reads()
    batches.alike = [True, True]
    with WithoutData() as mode:
        loss = torch.ones((), device=META)
        assert not run.is_to_stop([loss, loss], loss)
        run.step_ran_again(0, loss, loss)
        assert run.finite is None
        assert not mode.reads
        batches.repeats = lambda: [torch.ones((), dtype=torch.bool, device=META)] * 2
        assert run.finish([torch.ones(3, device=META)])
        assert mode.reads.total() == 1
    assert run.finite
    assert batches.checked == [[True, True]]


def test_a_step_that_gave_another_loss_is_named_once():
    run, batches = reads()
    loss = torch.tensor(2.0, dtype=torch.float64)
    run.is_to_stop([loss], loss)
    run.step_ran_again(7, loss, loss.clone())
    run.step_ran_again(6, loss * (1 + 1e-14), loss)  # rounded otherwise
    batches.alike = [True]
    assert run.finish([loss])
    assert batches.checked == [[True]]
    for step in (5, 4):
        run.step_ran_again(step, loss * (1 + 1e-9), loss)
    with pytest.raises(RuntimeError, match="step 5 gave another loss when it was run again"):
        run.finish([loss])
    assert run.finish([loss])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 5, -1])
def test_one_entry_that_is_not_finite_is_found(bad, place):
    tensors = [torch.randn(3, 4, 2, 2), torch.randn(()), torch.full((7,), 3e38)]
    tensors[0] = tensors[0].contiguous(memory_format=torch.channels_last)
    assert all_finite(tensors).item() is True
    for number, tensor in enumerate(tensors):
        spoilt = [t.clone() for t in tensors]
        flat = spoilt[number].flatten()
        flat[place % len(flat)] = bad
        spoilt[number] = flat.reshape(tensor.shape)
        assert all_finite(spoilt).item() is False


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, torch.complex64])
def test_other_dtypes(dtype):
    tensors = [torch.ones(3, dtype=dtype), torch.ones(2)]
    assert all_finite(tensors).item() is True
    tensors[0][1] = float("nan")
    assert all_finite(tensors).item() is False


def test_nothing_is_finite():
    assert all_finite([]).item() is True
