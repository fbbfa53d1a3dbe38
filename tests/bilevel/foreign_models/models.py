"""Models that do what stands in the way of a second derivative, and small ones of libraries."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn


class BiasedAttention(nn.Module):
    """An eval-mode cache as LeViT and its relatives have it."""

    def __init__(self):
        super().__init__()
        self.attention_biases = nn.Parameter(torch.tensor([0.5, -0.3], dtype=torch.float64))
        self.attention_bias_cache = {}

    def forward(self, x):
        if "cpu" not in self.attention_bias_cache:
            self.attention_bias_cache["cpu"] = self.attention_biases**3
        return x * self.attention_bias_cache["cpu"]


class Cached(nn.Module):
    """Three `functools` caches: of a method, of a function of this file, of a property."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))

    @functools.lru_cache(maxsize=2)  # noqa: B019
    def scaled(self):
        return self.weight * 2

    @functools.cached_property
    def squared(self):
        return self.weight**2

    def forward(self, x):
        return x * self.scaled() * self.squared + table(2)


@functools.lru_cache(maxsize=2)
def table(n):
    return torch.arange(n, dtype=torch.float64)


early_hardsigmoid = F.hardsigmoid


class Early(nn.Module):
    """References to an operation taken before the context."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.3, 0.7], dtype=torch.float64))
        self.gate = F.hardsigmoid

    def forward(self, x):
        return self.gate(x * self.weight) * early_hardsigmoid(self.weight)


class Overwrites(nn.Module):
    """Updates its input in place in a part, and uses it again afterwards."""

    class Part(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([0.3, 0.7], dtype=torch.float64))

        def forward(self, x, scale):
            x *= self.weight * scale
            return x

    def __init__(self):
        super().__init__()
        self.part = self.Part()

    def forward(self, x, scale=3.0):
        return self.part(x, scale) * x  # both are x w scale


def prepared(model):
    """float64, eval mode, and nothing at zero or at its default."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=generator))
    return model.double().eval()


def transformers_model(name):
    transformers = pytest.importorskip("transformers")
    if name == "vit":
        config = transformers.ViTConfig(
            hidden_size=8,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=16,
            image_size=16,
            patch_size=8,
            num_labels=3,
        )
        return transformers.ViTForImageClassification(config), 16
    if name == "swin":
        config = transformers.SwinConfig(
            embed_dim=8,
            depths=[2, 1],
            num_heads=[2, 2],
            window_size=2,
            image_size=16,
            patch_size=2,
            num_labels=3,
        )
        return transformers.SwinForImageClassification(config), 16
    sizes = {"hidden_sizes": [8, 8, 8], "num_attention_heads": [2, 2, 2], "key_dim": [4, 4, 4]}
    down = ["Subsample", 4, 2, 4, 2, 2]
    config = transformers.LevitConfig(
        image_size=64, depths=[1, 1, 1], down_ops=[down, down], num_labels=3, **sizes
    )
    return transformers.LevitForImageClassification(config), 64
