"""What is read of a run on its way: whether it is finite, and whether it did the same twice."""

from types import SimpleNamespace

import pytest
import torch

from dd_plugin.bilevel.host_reads import HostReads


def reads():
    asked = []
    batches = SimpleNamespace(check_repeats=lambda: asked.append("batches"))
    return HostReads(SimpleNamespace(batches=batches)), asked


def losses(*values):
    return [torch.tensor(value, dtype=torch.float64) for value in values]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_the_first_step_with_a_loss_that_is_not_finite_is_told(bad):
    run, _ = reads()
    assert run.finite is None
    assert run.losses_are_finite(losses(1, 2, 3), torch.tensor(1.0))
    assert (run.finite, run.first_nonfinite) == (True, None)
    assert not run.losses_are_finite(losses(1, bad, bad), torch.tensor(1.0))
    assert (run.finite, run.first_nonfinite) == (False, 1)
    # One of several networks is enough.
    run, _ = reads()
    assert not run.losses_are_finite(
        [torch.tensor([1.0, 2.0]), torch.tensor([1.0, bad])], losses(1)[0]
    )
    assert run.first_nonfinite == 1
    # The outer loss is of no step.
    run, _ = reads()
    assert not run.losses_are_finite(losses(1, 2), torch.tensor(bad))
    assert (run.finite, run.first_nonfinite) == (False, None)


def test_a_result_is_finite_if_its_losses_and_all_its_tensors_are():
    run, _ = reads()
    result = {"weights": torch.ones(3), "empty": torch.empty(0), "counts": [torch.zeros(2), None]}
    assert not run.result_is_finite(result)  # no loss was read
    run.losses_are_finite(losses(1), torch.tensor(1.0))
    assert run.result_is_finite(result)
    result["counts"][0][1] = float("nan")
    assert not run.result_is_finite(result)


def test_a_step_that_gave_another_loss_is_named_once():
    run, asked = reads()
    loss = torch.tensor(2.0, dtype=torch.float64)
    run.step_ran_again(7, loss, loss.clone())
    run.step_ran_again(6, loss * (1 + 1e-14), loss)  # rounded otherwise
    run.check_repeats()
    assert asked == ["batches"]
    for step in (5, 4):
        run.step_ran_again(step, loss * (1 + 1e-9), loss)
    with pytest.raises(RuntimeError, match="step 5 gave another loss when it was run again"):
        run.check_repeats()
    run.check_repeats()
