"""Checks of the converted layers on their own: values, gradients and the jvp of a gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp

from dd_plugin import convert_bn
from tests.gpu.hypergradients import error
from tests.gpu.records import Row

_KINDS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
# Relative errors by what the layer computes in: double, single, and with bf16 around it.
_LIMITS = {"eager": 1e-10, "compiled": 1e-4, "autocast": 0.05}


def _compute(case: Mapping[str, Any], device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    torch.manual_seed(0)
    channels = 6
    kind = _KINDS[case["dims"]]
    policy = {"statistics": case["statistics"], "train_with": case["train_with"]}
    layer = convert_bn(nn.Sequential(kind(channels)), **policy).to(device, dtype).train()
    images = torch.randn(8, channels, *[5] * case["dims"], dtype=torch.float64)
    weight, tangent = torch.randn_like(images), torch.randn_like(images)
    x, weight, tangent = (t.to(device, dtype) for t in (images, weight, tangent))
    tensors = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
    fixed = {name: t.detach().clone() for name, t in tensors.items()}

    # What a layer meets under autocast is the output of a convolution.
    enter = torch.bfloat16 if case["how"] == "autocast" else dtype

    def loss(x: Tensor) -> Tensor:
        # Copies, since a layer that tracks writes into its buffers.
        given = {name: t.clone() for name, t in fixed.items()}
        with torch.autocast(device, torch.bfloat16, enabled=case["how"] == "autocast"):
            y = functional_call(layer, given, (x.to(enter),))
        return (y.to(dtype).tanh() * weight).sum()

    network = torch.compile(layer, fullgraph=True) if case["how"] == "compiled" else layer
    leaf = x.clone().requires_grad_()
    with torch.autocast(device, torch.bfloat16, enabled=case["how"] == "autocast"):
        y = network(leaf.to(enter))
    (y.to(dtype).tanh() * weight).sum().backward()
    assert leaf.grad is not None
    slopes = [p.grad for p in layer.parameters() if p.grad is not None]
    found = {
        "output": y,
        "gradient": leaf.grad,
        "gradients of parameters": torch.cat([slope.flatten() for slope in slopes]),
        "jvp of gradient": jvp(grad(loss), (x,), (tangent,))[1],
        "output in eval mode": layer.eval()(x.to(enter)),
    }
    return {name: t.detach().double().cpu() for name, t in found.items()}


def check_layer(case: Mapping[str, Any], device: str, size: str) -> Row:
    """Compare a layer on the device with the same layer on a CPU in float64."""
    del size
    dtype = torch.float64 if case["how"] == "eager" else torch.float32
    expected = _compute({**case, "how": "eager"}, "cpu", torch.float64)
    found = _compute(case, device, dtype)
    errors = {name: error(found[name], expected[name]) for name in expected}
    limit = _LIMITS[case["how"]]
    return {"errors": errors, "limit": limit, "ok": max(errors.values()) < limit}
