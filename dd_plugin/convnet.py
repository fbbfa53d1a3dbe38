"""The benchmark networks, as users import them; importing this registers them with timm."""

from dd_plugin.networks.convnet import (
    Block,
    DDConvNet,
    DDLeNet,
    Init,
    Norm,
    dd_convnet,
    dd_lenet,
    make_norm,
)

__all__ = [
    "Block",
    "DDConvNet",
    "DDLeNet",
    "Init",
    "Norm",
    "dd_convnet",
    "dd_lenet",
    "make_norm",
]
