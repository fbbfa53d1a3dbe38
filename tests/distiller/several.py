"""Two small networks, one with BatchNorm and one without, for runs that learn for both."""

import torch

from dd_plugin.convnet import dd_convnet

# BatchNorm with something to learn, and none at all.
NARROW = {"width": 4, "depth": 2, "norm_layer": "batchnorm2d"}
PLAIN = {"width": 3, "depth": 1}

# Without traces, for runs of a few steps.
TWO = {
    "model": ["timm/dd_convnet", "timm/dd_convnet"],
    "model_args": [NARROW, PLAIN],
    "compile": "no",
}
LABELS = ("timm/dd_convnet:1", "timm/dd_convnet:2")
POOL = {"init": "pool", "window": "last", "window_length": 2, "pool_size": 2}


def narrow():
    return dd_convnet(num_classes=3, in_chans=1, img_size=8, **NARROW)


def plain():
    return dd_convnet(num_classes=3, in_chans=1, img_size=8, **PLAIN)


def tensors(distiller):
    return {name: t.clone() for name, t in distiller.synthetic.state_dict().items()}


def check_same(one, other):
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
