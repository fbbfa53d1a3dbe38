"""`dd_plugin.distiller.outer_step`: what one process does with the parts of the others.

Whole runs of several processes are in `together/test_processes`.
"""

from types import SimpleNamespace

import pytest
import torch

from dd_plugin.data.synthetic import SyntheticSet
from dd_plugin.distiller import outer_step
from dd_plugin.distiller.best import BestSet
from dd_plugin.distiller.callbacks import DistillerState
from dd_plugin.distiller.outer_step import OuterStep
from dd_plugin.distiller.run import Run, TrainState
from dd_plugin.distiller.stopping import StopSignal
from tests.distiller.toy import toy_config, toy_distiller


class Known(OuterStep):
    """A step whose networks have a loss and gradients of their index, without any training."""

    def gradient(self, step, index, leaves):
        gradients = tuple(torch.full_like(leaf, index + 1.0) for leaf in leaves)
        loss = torch.tensor(10.0 * (index + 1), dtype=torch.float64)
        return SimpleNamespace(outer_loss=loss, leaves=gradients, finite=True)


class Set:
    """Images and labels, in place of a synthetic set."""

    def __init__(self):
        self.images, self.labels = (
            torch.zeros(shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 3), (2,))
        )

    def leaves(self):
        return {"images": [self.images], "labels": [self.labels]}

    def constrain_(self):
        """Nothing to keep."""


def step_of(folder, others):
    """A step of two processes with a network each; ``others`` is what the other one adds."""
    accelerator = SimpleNamespace(
        num_processes=2,
        process_index=0,
        device=torch.device("cpu"),
        reduce=lambda flat, reduction: flat + others,
    )
    synthetic = Set()
    groups = [{"params": group, "name": kind} for kind, group in synthetic.leaves().items()]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    state = TrainState(
        synthetic=synthetic,
        networks=SimpleNamespace(resting=lambda turns: []),
        train_data=None,
        optimizer=optimizer,
        lr_scheduler=torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0),
        position=DistillerState(),
        best=BestSet(),
    )
    run = Run.of(toy_config(folder, max_grad_norm=0), accelerator)
    return Known(run, state, real_batch=None, window=None, storage=None)


def other(gradient, *, unusable=0.0, stop=0.0, loss=10.0):
    """The flags, the share of the loss and the gradients of the other process."""
    gradients = torch.full((8,), gradient, dtype=torch.float64)
    return torch.cat([torch.tensor([unusable, stop, loss], dtype=torch.float64), gradients])


def test_losses_and_gradients_are_averaged(tmp_path):
    step = step_of(tmp_path, other(1.0))
    # Network 0 has half of a loss of 10 and of gradients of 1.
    assert step.take(StopSignal()) == 15.0
    state = step.state
    for leaf in (state.synthetic.images, state.synthetic.labels):
        assert torch.equal(leaf, torch.full_like(leaf, -1.5))
    assert (state.position.global_step, state.position.interrupted) == (1, None)


def test_one_process_that_is_not_finite_is_enough(tmp_path):
    step = step_of(tmp_path, other(float("nan"), unusable=1.0, loss=float("nan")))
    step.take(StopSignal())
    position = step.state.position
    assert (position.skipped_steps, position.consecutive_skipped, position.global_step) == (1, 1, 1)
    assert not step.state.synthetic.images.any()


@pytest.mark.parametrize(
    ("name", "stop", "expected"),
    [
        (None, 0.0, None),
        (None, 1.0, "a signal to another process"),
        ("SIGTERM", 0.0, "SIGTERM"),
    ],
)
def test_a_signal_to_one_process_ends_all(tmp_path, name, stop, expected):
    step = step_of(tmp_path, other(1.0, stop=stop))
    signal = StopSignal()
    signal.name = name
    step.take(signal)
    assert step.state.position.interrupted == expected


@pytest.mark.parametrize(
    "options",
    [
        {"batching": "groups", "groups": 2, "images_per_class": 2, "augmentation": "flip"},
        {"augmentation": "dsa", "augmentations_per_step": 2, "soft_labels": True},
        {"init": "pool", "window": "last", "window_length": 2, "pool_size": 2},
        {"networks_per_step": 2, "batch_networks": True},
        {"window": "random", "window_length": 2},
    ],
)
def test_on_a_gpu_the_batches_of_a_run_are_made_at_once_and_the_same(
    tmp_path, monkeypatch, options
):
    asked = []

    def images(folder):
        run = toy_distiller(tmp_path / folder, max_steps=2, **options)
        run.train()
        return run.synthetic.images().detach()

    expected = images("one by one")
    native = SyntheticSet.batches_at_once

    def noted(self, steps, seed):
        asked.append(len(steps))
        return native(self, steps, seed)

    monkeypatch.setattr(SyntheticSet, "batches_at_once", noted)
    monkeypatch.setattr(outer_step, "memory_of_gpu", lambda device: 1 << 34)
    found = images("at once")
    assert max(asked) > 1
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-9)
    # Not where they would take much of the memory.
    asked.clear()
    monkeypatch.setattr(outer_step, "memory_of_gpu", lambda device: 1 << 12)
    assert torch.equal(images("little memory"), expected)
    assert set(asked) == {1}
