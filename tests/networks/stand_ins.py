"""A stand-in for a frozen backbone, and small data for its features."""

import torch
from torch import nn

from dd_plugin.data import Normalization, RealData
from tests.data.tables import images, table

LABELS = [0, 1, 2, 2, 1, 0, 2]


class Backbone(nn.Module):
    """A stand-in: its features are fixed random projections of the pixels, plus the mean."""

    num_features = 5
    size = (4, 5)
    normalization = Normalization([0.0], [1.0])

    def __init__(self, fingerprint="f" * 64, pixels=60):
        super().__init__()
        self.fingerprint = fingerprint
        weight = torch.randn(5, pixels, generator=torch.Generator().manual_seed(1))
        self.weight = nn.Parameter(weight / 10, requires_grad=False)
        self.calls = []

    def forward(self, images):
        self.calls.append(len(images))
        return images.flatten(1) @ self.weight.T


def data(count=150, max_bytes=2 << 30, seed=0, labels=None, shape=(4, 5, 3)):
    labels = [LABELS[row % 7] for row in range(count)] if labels is None else labels
    return RealData.from_dataset(table(images(count, shape, seed), labels), max_bytes=max_bytes)


def streamed(count=150):
    dataset = table(images(count, (4, 5, 3)), [LABELS[row % 7] for row in range(count)])
    return RealData.from_dataset(dataset.to_iterable_dataset(), channels=3, buffer_size=20)


def expected(real, backbone):
    (pixels, _), *_ = real.batches(len(real))
    return backbone(pixels)


def only_file(folder):
    (path,) = (folder / "features").iterdir()
    return path
