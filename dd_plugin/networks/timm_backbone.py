"""timm's models as feature networks: what their classifiers take, and the size of their input.

Most end in one linear layer (or a 1x1 convolution), which a head replaces; distilled ones average
two. The few that do something else give `forward_head(..., pre_logits=True)`, and a head goes on
top.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dd_plugin.networks.classifier import remove_classifier
from dd_plugin.networks.errors import BackboneError
from dd_plugin.networks.feature_networks import FeatureNetwork
from dd_plugin.text import described

__all__ = ["PreLogits", "is_timm_model", "set_timm_size", "timm_features", "timm_sizes"]


class PreLogits(FeatureNetwork):
    """The input of a timm model's classifiers, where these are not one linear layer."""

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return `forward_head(forward_features(x), pre_logits=True)`."""
        model: Any = self.model
        features = model.forward_head(model.forward_features(pixel_values), pre_logits=True)
        if not isinstance(features, Tensor) or features.ndim != 2:
            kind = (
                f"a tensor of shape {tuple(features.shape)}"
                if isinstance(features, Tensor)
                else f"a {type(features).__name__}"
            )
            raise BackboneError(
                f"the {type(model).__name__} must give its head one vector per image, got {kind} "
                "(features of several kinds); give `feature_layer`, the name of the layer whose "
                "output is to be taken"
            )
        return features


def is_timm_model(model: nn.Module) -> bool:
    """Return whether a model has the interface of timm's classifiers."""
    names = ("forward_features", "forward_head", "get_classifier", "reset_classifier")
    return all(callable(getattr(model, name, None)) for name in names)


def timm_sizes(model: Any) -> list[tuple[int, int]]:
    """Return the sizes of images that a timm model names, best first."""
    of_patches = getattr(getattr(model, "patch_embed", None), "img_size", None)
    configured = (getattr(model, "pretrained_cfg", None) or {}).get("input_size")
    candidates = [of_patches, configured[1:] if configured else None]
    return [
        (int(size[0]), int(size[1]))
        for size in candidates
        if isinstance(size, (tuple, list)) and len(size) == 2
    ]


def set_timm_size(model: Any, size: tuple[int, int]) -> None:
    """Set a model with a fixed grid of patches to another size of images, where it can be."""
    if size in timm_sizes(model)[:1] or not callable(getattr(model, "set_input_size", None)):
        return
    try:
        model.set_input_size(img_size=size)
    except Exception as error:
        raise BackboneError(
            f"the {type(model).__name__} cannot be set to `image_size` {size[0]}x{size[1]} "
            f"({described(error)}); give a multiple of its patch, or leave it out"
        ) from error


def timm_features(model: Any, example: Tensor) -> FeatureNetwork:
    """Return the features of a timm model.

    Args:
        model: in eval mode; changed in place.
        example: network input (2, 3, H, W).

    Raises:
        BackboneError: what its head takes is not one vector per image.
    """
    headless = getattr(model, "num_classes", None) == 0
    if headless:
        try:
            model.reset_classifier(2)
        except Exception as error:
            raise BackboneError(
                f"the {type(model).__name__} has no classifier and takes none "
                f"({described(error)}); give `feature_layer`"
            ) from error
        model.eval()
        model.to(example.device, example.dtype)
    declared = model.get_classifier()
    heads = [declared] if isinstance(declared, nn.Module) else list(declared or [])
    flat = [
        module for head in heads for module in (head if isinstance(head, nn.ModuleList) else [head])
    ]
    try:
        return remove_classifier(model, example, flat)
    except BackboneError:
        if headless:
            model.reset_classifier(0)
        network = PreLogits(model)
        with torch.no_grad():
            network(example)
        return network
