"""The benchmark networks, as users import them; importing this registers them with timm."""

from dd_plugin.networks.blocks import Block, Init, Norm, make_norm  # noqa: F401
from dd_plugin.networks.convnet import DDConvNet, DDLeNet, dd_convnet, dd_lenet

__all__ = ["Block", "DDConvNet", "DDLeNet", "dd_convnet", "dd_lenet", "make_norm"]
