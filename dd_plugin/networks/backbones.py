"""Frozen backbones: from a name or a module to a pretrained model for heads to be trained on.

`load_backbone` loads the model and finds out what its own head takes, which sizes of images it
accepts, and how its input is normalized (`module_features`). `frozen.Backbone` is the result.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from dd_plugin.data import Normalization
from dd_plugin.hub_access import revision_of
from dd_plugin.networks.errors import BackboneError
from dd_plugin.networks.fingerprint import fingerprint
from dd_plugin.networks.frozen import Backbone
from dd_plugin.networks.lite_weights import LITE_PREFIX, load_lite
from dd_plugin.networks.module_features import check_loaded, feature_network, normalization_of
from dd_plugin.networks.names import check_record, load_model, load_vision_model
from dd_plugin.networks.timm_models import TIMM_PREFIX
from dd_plugin.text import described

__all__ = ["Backbone", "BackboneError", "check_recorded_backbone", "load_backbone"]


def load_backbone(
    model: str | nn.Module,
    *,
    image_size: int | tuple[int, int] | None = None,
    feature_layer: str | None = None,
    revision: str | None = None,
    pretrained: bool = True,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    normalization: Normalization | None = None,
) -> Backbone:
    """Return a frozen backbone.

    Args:
        model: `timm/NAME`, `lite/efficientnet_lite0` to `lite2` (the packages of the `backbones`
            extra), an id on the Hugging Face Hub, a local folder, or a module, which is copied. A
            `Backbone` stays as it is, but for ``device``, ``dtype`` and ``normalization``.
        image_size: Size that the network is to see; all images are resized to it. By default
            networks that take any size see images as they are, and others see them in their own.
        feature_layer: Name of the layer whose output is taken, averaged over positions. By default
            it is what the model's own head takes.
        revision: Branch, tag or commit of a model on the Hub.
        pretrained: Load the weights; False gives random ones.
        device: Where it runs.
        dtype: Its precision, `torch.float32` or `torch.bfloat16` (`torch.float64` for tests).
        normalization: Of its input. By default the model's own.

    Raises:
        BackboneError: The model cannot serve as a backbone, with what to do.
        ModelLoadError: There is no such model, or its files cannot be loaded.
    """
    if not dtype.is_floating_point:
        raise BackboneError(f"`dtype` must be torch.float32 or torch.bfloat16, got {dtype}")
    size = _size(image_size)
    if isinstance(model, Backbone):
        fixed = {"feature_layer": feature_layer, "revision": revision, "size": size}
        moved = _moved(model, device, dtype, fixed)
        moved.normalization = normalization or model.normalization
        return moved
    module, missing = _module_of(model, pretrained=pretrained, revision=revision, size=size)
    module.eval()
    if any(value.dtype in (torch.float16, torch.bfloat16) for value in module.parameters()):
        module.float()  # no value changes, and the trials that follow are precise
    name = model if isinstance(model, str) else None
    network, input_size = feature_network(module, size, feature_layer)
    check_loaded(name, network, module, missing)
    normalization = normalization or normalization_of(module, name)
    trainable = frozenset(path for path, value in network.named_parameters() if value.requires_grad)
    identity = fingerprint(network)
    network.to(device=device, dtype=dtype)
    with torch.no_grad():
        reference = next(network.parameters())
        num_features = network(reference.new_zeros(1, 3, *input_size)).shape[1]
    return Backbone(
        network,
        name=name,
        num_features=num_features,
        size=input_size,
        always_resize=size is not None,
        normalization=normalization,
        fingerprint=identity,
        revision=revision_of(module) or revision,
        trainable=trainable,
        feature_layer=feature_layer,
    )


def _module_of(
    model: str | nn.Module, *, pretrained: bool, revision: str | None, size: tuple[int, int] | None
) -> tuple[nn.Module, list[str]]:
    """Return the model of a name or a copy of a module, and its parameters that no file held."""
    if isinstance(model, str):
        return _load(model, pretrained, revision, size)
    if not isinstance(model, nn.Module):
        raise BackboneError(
            f"`model` must be a name or a torch.nn.Module, got a {type(model).__name__}; write "
            "timm/NAME, the id of a model on the Hub, or a local folder"
        )
    if revision is not None:
        raise BackboneError(
            "`revision` must be None for a module, whose weights are there; load it by name, "
            f"or leave it out, got {revision!r}"
        )
    if any(parameter.is_meta for parameter in model.parameters()):
        raise BackboneError(
            f"the {type(model).__name__} has no weights (they are on the meta device); "
            "load them first"
        )
    try:
        return copy.deepcopy(model), []
    except Exception as error:
        raise BackboneError(
            f"the {type(model).__name__} must be copyable, and copying it failed "
            f"({described(error)}); give one that `copy.deepcopy` takes"
        ) from error


def _moved(
    backbone: Backbone,
    device: torch.device | str,
    dtype: torch.dtype,
    fixed: dict[str, Any],
) -> Backbone:
    """Return a copy of a backbone, whose ``fixed`` attributes must be None or what they are."""
    for name, value in fixed.items():
        if value is not None and value != getattr(backbone, name, None):
            raise BackboneError(
                f"`{name}` must be left out for a `Backbone`, got {value!r}; give it to the "
                "`load_backbone` that makes it"
            )
    return copy.deepcopy(backbone).to(device=device, dtype=dtype)


def check_recorded_backbone(name: str) -> None:
    """Check that the name of a backbone from a file leads to nothing on this machine.

    Raises:
        ModelLoadError: It could.
    """
    if not name.startswith(LITE_PREFIX):
        check_record(name, {})


def _load(
    name: str, pretrained: bool, revision: str | None, size: tuple[int, int] | None
) -> tuple[nn.Module, list[str]]:
    """Return the model of a name, and the names of its parameters that no file held."""
    if name.startswith((TIMM_PREFIX, LITE_PREFIX)):
        if revision is not None:
            raise BackboneError(
                f"`revision` must be None for {name!r}, got {revision!r}; name other weights by "
                "their tag, as in timm/resnet18.a1_in1k"
            )
        if name.startswith(LITE_PREFIX):
            return load_lite(name, pretrained=pretrained), []
        return load_model(name, pretrained=pretrained, img_size=size), []
    return load_vision_model(name, pretrained=pretrained, revision=revision)


def _size(value: int | tuple[int, int] | None) -> tuple[int, int] | None:
    """Return a size of images as (height, width)."""
    if value is None:
        return None
    sides = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise BackboneError(
            f"`image_size` must be a positive whole number or (height, width), got {value!r}"
        )
    return sides
