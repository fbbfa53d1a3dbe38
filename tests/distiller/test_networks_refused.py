"""Models that a run cannot start from are refused before any work."""

import re

import pytest
from torch import nn

from tests.distiller.networks import (
    CLASSES,
    make,
    networks,
)


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, CLASSES)),
            "cannot take images of 2x4x4 .* first convolution, '0', takes 3 channel.* have 2",
        ),
        (nn.Sequential(nn.Flatten(), nn.Linear(99, CLASSES)), "cannot take images of 2x4x4"),
        (nn.Sequential(nn.Flatten(), nn.Linear(32, 5)), "each of the 3 classes .* got 5"),
        (nn.Conv2d(2, CLASSES, 3), r"must return logits \(N, 3\), got shape \(2, 3, 2, 2\)"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(32, CLASSES), nn.Softmax(1)),
            "must return logits, got probabilities",
        ),
        (nn.Sequential(nn.Flatten(), nn.LazyLinear(CLASSES)), "shapes are not known yet"),
        (nn.Sequential(nn.Flatten(), nn.Linear(32, 3)).requires_grad_(False), "no trainable"),
    ],
)
def test_models_that_do_not_fit_the_data(model, text):
    with pytest.raises(ValueError, match=text):
        networks(model)


def test_what_is_no_classifier_at_all():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(32, CLASSES)

        def forward(self, x):
            return [self.layer(x.flatten(1))]

    with pytest.raises(TypeError, match="must return a tensor or an output with `logits`"):
        networks(Pair())
    with pytest.raises(TypeError, match=r"must make an nn\.Module, got int"):
        networks(lambda: 3)
    with pytest.raises(TypeError, match="a function that makes one or a name, got int"):
        networks(3)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"mode": "radnom"}, '`mode` must be "fixed", "random" or "pool"'),
        ({"mode": "random", "model_init": make()}, "got one module; pass a function"),
        ({"pool_size": 0}, "at least 1, got 0 and 200"),
        ({"model_args": {"width": 3}}, "unless `model_init` is a name, got ['width']"),
        ({"statistics": "lerned"}, "`statistics` must be"),
    ],
)
def test_wrong_arguments(options, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        networks(**options)
