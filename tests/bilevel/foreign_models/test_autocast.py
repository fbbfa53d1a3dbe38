"""Networks of every normalization in half precision."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

import dd_plugin.convnet  # noqa: F401 - registers `dd_convnet`
from dd_plugin.bilevel import BilevelProblem, hypergradient, sgd
from dd_plugin.bilevel.foreign_models.autocast import NORMALIZATIONS
from dd_plugin.bilevel.foreign_models.second_order import second_order


class _RmsNorm(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x):
        last = x.movedim(1, -1)
        return F.rms_norm(last, last.shape[-1:], self.weight).movedim(-1, 1)


def _network(norm):
    torch.manual_seed(0)
    if norm in ("groupnorm", "layernorm2d", "instancenorm2d", "batchnorm2d"):
        shape = {"width": 8, "depth": 2, "img_size": 16}
        return timm.create_model("dd_convnet", norm_layer=norm, **shape)
    layer = {"groups of 4": nn.GroupNorm(4, 8), "rms": _RmsNorm(8)}[norm]
    convolutions = [nn.Conv2d(3, 8, 3), layer, nn.ReLU(), nn.Conv2d(8, 8, 3)]
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))


NORMS = ["groupnorm", "layernorm2d", "instancenorm2d", "batchnorm2d", "groups of 4", "rms"]


@pytest.mark.parametrize("how", [False, "trace"])
@pytest.mark.parametrize("norm", NORMS)
def test_a_hypergradient_in_half_precision_is_that_of_double_backward(norm, how):
    images, real = torch.randn(10, 3, 16, 16), torch.randn(20, 3, 16, 16)
    batches, outer = [(images, torch.arange(10))] * 3, (real, torch.arange(20) % 10)
    found, expected, exact = (
        hypergradient(
            BilevelProblem(_network(norm), optimizer=sgd(0.5), compile=how, autocast=autocast),
            batches,
            outer,
            step_size=0.05,
            method=method,
        )
        .batches[0]
        .images
        for method, autocast in (
            ("mixed", torch.bfloat16),
            ("autograd", torch.bfloat16),
            ("mixed", None),
        )
    )

    def cosine(a, b):
        return float(F.cosine_similarity(a.flatten(), b.flatten(), dim=0))

    assert cosine(found, expected) > 0.99
    assert cosine(found, exact) > 0.9


@pytest.mark.parametrize("name", sorted(NORMALIZATIONS))
def test_they_compute_in_float32_under_autocast_alone(name):
    x = torch.randn(4, 8, 6)
    arguments = {"group_norm": (2,)}.get(name, ((6,),))
    with second_order():
        function = getattr(F, name)
        assert function(x.bfloat16(), *arguments).dtype == torch.bfloat16
        assert torch.equal(function(x, *arguments), getattr(F, name)(x, *arguments))
        with torch.autocast("cpu", torch.bfloat16):
            found = function(x.bfloat16(), *arguments)
            assert function(x.double(), *arguments).dtype == torch.float64
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, getattr(F, name)(x.bfloat16().float(), *arguments))
    assert getattr(F, name) is not NORMALIZATIONS[name]
