"""The benchmark networks of dataset distillation, as models of timm: `dd_convnet`, `dd_lenet`.

Importing this file registers them with timm's own registry, so `timm.create_model("dd_convnet",
width=64, norm_layer="batchnorm2d", in_chans=1, img_size=28, num_classes=10)` works like for any
other name, with feature extraction, `reset_classifier` and a data configuration that says what the
network was made for. `timm_models` imports it when timm is needed. `benchmark_networks` has the
networks themselves.
"""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, register_model
from torch import nn

from dd_plugin.networks.benchmark_networks import DDConvNet, DDLeNet, default_cfgs, describe
from dd_plugin.networks.blocks import BenchmarkNetwork

__all__ = ["DDConvNet", "DDLeNet", "dd_convnet", "dd_lenet", "default_cfgs"]


def _create(
    model_class: type[BenchmarkNetwork], name: str, pretrained: bool, kwargs: Any
) -> nn.Module:
    features_only = kwargs.get("features_only", False)
    depth = 2 if model_class is DDLeNet else kwargs.get("depth", 3)
    if model_class is DDLeNet:
        kwargs.pop("global_pool", None)
    model: Any = build_model_with_cfg(
        model_class,
        name,
        pretrained,
        feature_cfg={"out_indices": tuple(range(depth)), "flatten_sequential": True},
        **kwargs,
    )
    if not features_only:
        describe(model)
    return model


def dd_convnet(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """See `DDConvNet`, whose arguments it takes. There are no pretrained weights."""
    return _create(DDConvNet, "dd_convnet", pretrained, kwargs)


def dd_lenet(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """See `DDLeNet`, whose arguments it takes. There are no pretrained weights."""
    return _create(DDLeNet, "dd_lenet", pretrained, kwargs)


register_model(dd_convnet)
register_model(dd_lenet)
