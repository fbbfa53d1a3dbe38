"""Single layers with statistics that no symmetry hides, and images for them."""

import torch
from torch import nn


def randomised(layer):
    """Statistics and affine parameters that no symmetry hides."""
    with torch.no_grad():
        for name, tensor in [*layer.named_parameters(), *layer.named_buffers()]:
            if tensor.is_floating_point() and tensor.dim() == 1:
                tensor.uniform_(0.5, 1.5) if "var" in name else tensor.normal_()
    return layer


def stock(channels=3, dtype=torch.float64, **options):
    return randomised(nn.BatchNorm2d(channels, dtype=dtype, **options))


def tensors_of(model):
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def images(n=4, channels=3, size=2):
    return torch.randn(n, channels, size, size, dtype=torch.float64)
