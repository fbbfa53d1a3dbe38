"""Fingerprints change with every value, name, shape and dtype, and with nothing else."""

import torch
from torch import nn

from dd_plugin.networks.backbones import load_backbone
from dd_plugin.networks.fingerprint import fingerprint
from tests.networks.models import timm_model


def _module():
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def test_it_depends_on_every_bit_of_parameters_and_buffers():
    module = _module()
    found = {fingerprint(module)}
    for tensor in module.state_dict().values():
        flat = tensor.view(-1)
        for index in range(tensor.numel()):
            kept = flat[index].clone()
            flat[index] = (
                torch.nextafter(kept, kept + 1) if tensor.is_floating_point() else kept + 1
            )
            found.add(fingerprint(module))
            flat[index] = kept
    numbers = sum(tensor.numel() for tensor in module.state_dict().values())
    assert len(found) == numbers + 1
    assert fingerprint(module) in found


def test_it_depends_on_names_shapes_and_dtypes():
    zeros = nn.Linear(2, 3)
    with torch.no_grad():
        zeros.weight.zero_()
        zeros.bias.zero_()
    turned = nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        turned.weight.zero_()
    plain = nn.Linear(2, 3, bias=False)
    plain.weight = nn.Parameter(zeros.weight.detach().clone())
    modules = [plain, zeros, turned, nn.Sequential(plain), nn.Linear(2, 3, bias=False).half()]
    assert len({fingerprint(module) for module in modules}) == len(modules)


def test_it_does_not_depend_on_strides_gradients_or_mode():
    module = nn.Conv2d(3, 4, 3)
    expected = fingerprint(module)
    assert expected == fingerprint(module.to(memory_format=torch.channels_last).eval())
    assert expected == fingerprint(module.requires_grad_(False))
    assert len(expected) == 64


def test_other_weights_have_another():
    module = timm_model("cnn")
    backbone = load_backbone(module)
    assert backbone.fingerprint == load_backbone(module).fingerprint
    with torch.no_grad():
        module.bn1.running_mean[0] += 1e-3
    assert backbone.fingerprint != load_backbone(module).fingerprint


def test_the_head_is_no_part_of_it():
    module = timm_model("vit")
    expected = load_backbone(module).fingerprint
    with torch.no_grad():
        module.head.weight.add_(1)
    assert load_backbone(module).fingerprint == expected
