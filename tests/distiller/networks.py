"""Small networks and where they come from, for tests of that and of the pool."""

import torch
from torch import nn

from dd_plugin.bilevel import sgd
from dd_plugin.distiller.networks import Networks

SHAPE = (2, 4, 4)
CLASSES = 3


def make(norm=True):
    """Five tensors of weights; ``norm`` adds a BatchNorm layer."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4) if norm else nn.Identity(),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    )


class Handmade(nn.Module):
    """Draws its weight by other means than its layers do."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 4)
        self.head = nn.Linear(4, CLASSES)
        with torch.no_grad():
            self.head.weight.normal_()

    def forward(self, x):
        return self.head(self.conv(x).flatten(1))


def networks(model_init=make, **options):
    optimizer = options.pop("optimizer", None) or sgd()
    options = {"num_classes": CLASSES, "shape": SHAPE, **options}
    made = Networks(model_init, **options)
    made.problem(optimizer)
    return made


def flat(state):
    return torch.cat([t.flatten() for t in state.parameters.values()])


def equal(a, b):
    return torch.equal(flat(a), flat(b))


def moved(state, by=1.0):
    return state._replace(parameters={n: t + by for n, t in state.parameters.items()})


def pool(**options):
    return networks(mode="pool", **{"pool_size": 2, "max_age": 10, **options})
