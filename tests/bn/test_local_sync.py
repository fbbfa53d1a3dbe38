"""`dd_plugin.bn.local_sync`: SyncBatchNorm that normalises with its own process's batch."""

import copy

import pytest
import timm
import torch
import torch.distributed as dist
from torch import nn

from dd_plugin.bn import LearnableStatistics, convert_bn, converted_layers, revert_bn
from dd_plugin.bn.convert import use_own_batches
from dd_plugin.bn.local_sync import LocalSyncBatchNorm
from tests.bn.processes import run_on_two


class Scaled(nn.SyncBatchNorm):
    """A class of a user's own."""

    def forward(self, x):
        return 2 * super().forward(x)


class Own(nn.SyncBatchNorm):
    """One that does it all by itself."""

    def forward(self, x):
        return x


def network(layer):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), layer, nn.Flatten(), nn.Linear(64, 2)).double()


def act():
    return timm.layers.convert_sync_batchnorm(timm.layers.BatchNormAct2d(4, act_layer=nn.GELU))


KINDS = {
    "torch": (lambda: nn.SyncBatchNorm(4), lambda: nn.BatchNorm2d(4)),
    "cumulative": (
        lambda: nn.SyncBatchNorm(4, momentum=None),
        lambda: nn.BatchNorm2d(4, momentum=None),
    ),
    "without statistics": (
        lambda: nn.SyncBatchNorm(4, track_running_stats=False),
        lambda: nn.BatchNorm2d(4, track_running_stats=False),
    ),
    "timm": (act, lambda: timm.layers.BatchNormAct2d(4, act_layer=nn.GELU)),
}


def trained(model, rank=0):
    """Output, gradients and tensors after one step in train mode, and an output in eval mode."""
    generator = torch.Generator().manual_seed(rank)
    images = torch.randn(5, 1, 6, 6, dtype=torch.float64, generator=generator)
    output = model.train()(images)
    output.square().sum().backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {"train": output.detach(), **gradients, "eval": model.eval()(images).detach()}


def on_this_process(rank, kind):
    """What layers give in one of two processes, each with a batch of its own."""
    stock, plain = (network(make()) for make in KINDS[kind])
    found = {"stock": use_own_batches(stock), "plain": plain}
    before = convert_bn(network(KINDS[kind][0]()), "tracked")
    found["converted before"] = use_own_batches(before)
    found["converted after"] = convert_bn(use_own_batches(network(KINDS[kind][0]())), "tracked")
    found["reverted"] = revert_bn(copy.deepcopy(found["converted before"]))
    # What is not touched still asks the other process.
    found["synchronised"] = convert_bn(network(KINDS[kind][0]()), "tracked")
    assert dist.get_world_size() == 2
    return {name: trained(model, rank) for name, model in found.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_do_not_see_each_other(tmp_path, kind):
    for found in run_on_two(on_this_process, tmp_path, kind):
        expected, together = found.pop("plain"), found.pop("synchronised")
        for name, each in found.items():
            for what, value in expected.items():
                torch.testing.assert_close(each[what], value, msg=f"{name}, {what}")
        assert not torch.allclose(together["train"], expected["train"], atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_conversion_and_the_way_back(kind):
    model = network(KINDS[kind][0]())
    names, before = list(model.state_dict()), copy.deepcopy(model.state_dict())
    assert use_own_batches(model) is model
    assert isinstance(model[1], LocalSyncBatchNorm)
    assert list(model.state_dict()) == names
    layer_class = type(model[1])
    assert type(use_own_batches(model)[1]) is layer_class
    convert_bn(model, "learned")
    assert use_own_batches(model)[1].statistics == "learned"
    assert type(revert_bn(model)[1]) is layer_class
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_subclasses():
    scaled = use_own_batches(network(Scaled(4)))
    found, expected = trained(convert_bn(scaled, "tracked")), trained(network(Scaled(4)))
    torch.testing.assert_close(found["eval"], expected["eval"])
    # One that does not ask the class before it is left for `convert_bn` to refuse.
    own = use_own_batches(network(Own(4)))
    with pytest.raises(ValueError, match="normalizes in a forward of its own"):
        convert_bn(own)


def test_the_model_itself_and_what_is_none():
    layer = nn.SyncBatchNorm(4)
    assert type(use_own_batches(layer)) is LocalSyncBatchNorm
    plain = network(nn.BatchNorm2d(4))
    assert type(use_own_batches(plain)[1]) is nn.BatchNorm2d
    assert not converted_layers(plain)
    assert not isinstance(layer, LearnableStatistics)


def test_a_forward_that_a_hook_has_replaced():
    from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module

    model = network(nn.SyncBatchNorm(4))
    add_hook_to_module(model[1], ModelHook())
    with pytest.raises(ValueError, match="its forward was replaced"):
        convert_bn(use_own_batches(model))
    remove_hook_from_module(model[1])
    assert isinstance(use_own_batches(model)[1], LocalSyncBatchNorm)
    torch.testing.assert_close(
        trained(convert_bn(model)), trained(convert_bn(network(nn.SyncBatchNorm(4))))
    )
