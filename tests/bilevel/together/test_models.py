"""Models of timm and transformers through every method, stock and converted."""

import pytest
import timm
import torch
import transformers

from dd_plugin.bilevel import BilevelProblem, adam, hypergradient, sgd
from dd_plugin.bn import convert_bn
from tests.bilevel.problems import (
    ROLES,
    assert_unchanged,
    frozen_copy,
    hard_batch,
    soft_batches,
    worst_error,
)


def _timm_resnet():
    return timm.models.resnet.ResNet(
        timm.models.resnet.BasicBlock,
        (1, 1, 1, 1),
        num_classes=3,
        channels=(4, 4, 4, 8),
        drop_path_rate=0.2,
    )


def _hub_resnet():
    config = transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=3
    )
    return transformers.ResNetForImageClassification(config)


def _timm_vit():
    return timm.models.vision_transformer.VisionTransformer(
        img_size=16,
        patch_size=8,
        embed_dim=8,
        depth=2,
        num_heads=2,
        num_classes=3,
        attn_drop_rate=0.1,
        proj_drop_rate=0.1,
    )


@pytest.mark.parametrize("make", [_timm_resnet, _hub_resnet, _timm_vit])
@pytest.mark.parametrize("converted", [False, True])
def test_models_of_the_ecosystem(make, converted):
    if converted and make is _timm_vit:
        pytest.skip("has no BatchNorm")
    model = make().double()
    if converted:
        convert_bn(model, "tracked")
    before = frozen_copy(model)
    batches = soft_batches(2, size=4, shape=(3, 16, 16))
    outer = hard_batch(size=4, shape=(3, 16, 16))
    for optimizer in (sgd(0.9), adam(eps=1e-3)):
        problem = BilevelProblem(model, optimizer=optimizer)
        oracle = hypergradient(problem, batches, outer, step_size=0.02, method="autograd")
        for method in ("mixed", "reverse"):
            result = hypergradient(problem, batches, outer, step_size=0.02, method=method)
            assert result.method == method
            # Where a weight's gradient is 0 (behind a gamma that starts at 0), Adam's second moment
            # starts in the singularity of the square root: its adjoint is no check.
            roles = ROLES if optimizer.name == "sgd" else set(ROLES) - {"optimizer_state"}
            error, where = worst_error(result, oracle, roles)
            assert error < 1e-9, (method, optimizer.name, where)
    assert_unchanged(model, before)


def test_tied_weights_are_one_parameter():
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.Linear(4, 4).double()
            self.second = torch.nn.Linear(4, 4).double()
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.second(self.first(x).tanh())

    problem = BilevelProblem(Tied())
    assert sorted(problem.model.parameters) == ["first.bias", "first.weight", "second.bias"]
    batches = soft_batches(3, classes=4, shape=(4,))
    outer = hard_batch(classes=4, shape=(4,))
    oracle = hypergradient(problem, batches, outer, step_size=0.3, method="autograd")
    assert worst_error(hypergradient(problem, batches, outer, step_size=0.3), oracle)[0] < 1e-9
