"""`distiller.outer_step`: the settings that decide how the networks of a step are run."""

import pytest
import torch

from dd_plugin.bilevel.steps import Steps
from dd_plugin.distiller import NoEffectWarning
from dd_plugin.distiller import outer_step as module
from dd_plugin.distiller.stopping import StopSignal
from tests.distiller.toy import SHALLOW, toy_config, toy_distiller

WIDE = {"width": 4, "depth": 2, "norm_layer": "batchnorm2d"}
PLAIN = {"width": 3, "depth": 1}
TWO = {"model": ["timm/dd_convnet", "timm/dd_convnet"], "model_args": [WIDE, PLAIN]}


def average(distiller):
    """The gradients of the first step for everything that is learned, and its loss."""
    leaves = [leaf for group in distiller.synthetic.leaves().values() for leaf in group]
    part = distiller._outer_step._this_process(leaves, StopSignal())
    assert part.finite
    return [*part.gradients, part.outer_loss]


def check_close(one, other):
    assert any(bool(t.abs().max() > 1e-6) for t in one)
    for a, b in zip(one, other, strict=True):
        # Adam enlarges the rounding of gradients that are nearly 0.
        assert (a - b).norm() <= 1e-7 * b.norm() + 1e-12


@pytest.fixture
def batched_sizes(monkeypatch):
    """How many networks each batched call has."""
    sizes, run = [], module.hypergradients

    def noting(problem, batches, outer_batch, networks, **options):
        sizes.append(len(networks))
        return run(problem, batches, outer_batch, networks, **options)

    monkeypatch.setattr(module, "hypergradients", noting)
    return sizes


@pytest.mark.parametrize(
    "options",
    [
        {"compile": "no", "soft_labels": True, "augmentation": "flip_rotate"},
        {"compile": "trace", "inner_optimizer": "adam", "model_args": SHALLOW},
        {"compile": "no", "init": "fixed", "window": "random", "window_length": 2},
    ],
    ids=str,
)
def test_batched_networks_have_the_gradient_of_one_after_the_other(
    tmp_path, batched_sizes, options
):
    options = {"networks_per_step": 3, **options}
    sequential = average(toy_distiller(tmp_path / "a", **options))
    assert not batched_sizes
    check_close(average(toy_distiller(tmp_path / "b", batch_networks=True, **options)), sequential)
    assert batched_sizes == [3]


def test_networks_of_one_architecture_are_batched(tmp_path, batched_sizes):
    options = {**TWO, "networks_per_step": 4, "compile": "no"}
    sequential = average(toy_distiller(tmp_path / "a", **options))
    distiller = toy_distiller(tmp_path / "b", batch_networks=True, **options)
    check_close(average(distiller), sequential)
    choices = [distiller.architectures.choice(turn) for turn in range(4)]
    assert sorted(batched_sizes) == sorted(n for n in map(choices.count, (0, 1)) if n > 1)
    assert batched_sizes


def test_a_run_of_batched_networks_goes_on_to_the_bit(tmp_path):
    options = {"networks_per_step": 2, "batch_networks": True, "compile": "no", "max_steps": 2}
    whole = toy_distiller(tmp_path / "a", save_steps=1, **options)
    whole.train()
    # Two outer steps of two networks with three steps each.
    assert whole.state.inner_steps == 12
    checkpoint = tmp_path / "a" / "checkpoint-1"
    resumed = toy_distiller(tmp_path / "b", **options)
    resumed.train(resume_from_checkpoint=checkpoint)
    expected = whole.synthetic.state_dict()
    assert all(torch.equal(t, expected[k]) for k, t in resumed.synthetic.state_dict().items())
    other = toy_distiller(tmp_path / "c", **{**options, "batch_networks": False})
    with pytest.raises(ValueError, match="batch_networks"):
        other.train(resume_from_checkpoint=checkpoint)


@pytest.mark.parametrize("storage", ["device", "host"])
def test_kept_activations_change_no_gradient(tmp_path, monkeypatch, storage):
    kept, run = [], Steps.gradient_keeping

    def noting(steps, inputs):
        result = run(steps, inputs)
        kept.append(sum(t.numel() for t in result[1]))
        return result

    monkeypatch.setattr(Steps, "gradient_keeping", noting)
    options = {"compile": "trace", "storage": storage, "model_args": SHALLOW}
    without = average(toy_distiller(tmp_path / "a", **options))
    assert not kept
    check_close(average(toy_distiller(tmp_path / "b", activation_memory=1.0, **options)), without)
    assert len(kept) == 3
    assert min(kept) > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation_memory": -1.0}, "`activation_memory` must not be negative"),
        (
            {"batch_networks": True, "init": "pool", "window": "last", "window_length": 2},
            '`batch_networks` must be off with init="pool"',
        ),
        (
            {"batch_networks": True, "method": "reverse"},
            '`batch_networks` must be off with method="reverse"',
        ),
    ],
)
def test_impossible_settings(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        toy_config(tmp_path, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"activation_memory": 1.0, "storage": "recompute"},
        {"activation_memory": 1.0, "method": "reverse"},
        {"activation_memory": 1.0, "compile": "no"},
        {"batch_networks": True, "networks_per_step": 1},
    ],
)
def test_settings_without_effect(tmp_path, options):
    with pytest.warns(NoEffectWarning, match="has no effect"):
        toy_config(tmp_path, **options)
