"""transformers models as feature networks: classifiers, bare backbones, CLIP and SigLIP.

A classifier gives what its own last layer takes. A bare backbone becomes the image classifier of
its type, so that its tokens are pooled as that class pools them (ViT: class token; DINOv2: class
token and mean of the others). Models of images and text give the image embedding, and types without
an image classifier give their `pooler_output`; a head then goes on top.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from dd_plugin.data import Normalization
from dd_plugin.data.transforms import image_processor
from dd_plugin.networks.classifier import remove_classifier
from dd_plugin.networks.errors import BackboneError
from dd_plugin.networks.feature_networks import FeatureNetwork, pooled
from dd_plugin.text import described

__all__ = ["PooledOutput", "hub_features", "hub_sizes", "is_hub_model", "norms_of_head", "tower_of"]


class PooledOutput(FeatureNetwork):
    """The image embedding or the pooled output of a transformers model.

    Args:
        model: the bare model of images.
        projection: from its pooled output to the space shared with text; None if it has none.
    """

    def __init__(self, model: nn.Module, projection: nn.Module | None = None) -> None:
        super().__init__(model)
        self.projection = projection

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return image embeddings, before they are scaled to length 1, or pooled outputs."""
        output = self.model(pixel_values=pixel_values)
        features = getattr(output, "image_embeds", None)
        if features is None:
            features = getattr(output, "pooler_output", None)
        if features is None:
            raise BackboneError(
                f"the {type(self.model).__name__} returns no pooled features, only "
                f"{', '.join(output)}; give `feature_layer`, the name of the layer whose output is "
                "to be taken"
            )
        if features.ndim == 4:
            features = features.mean((2, 3))
        features = pooled(features, f"the {type(self.model).__name__}")
        return features if self.projection is None else self.projection(features)


def is_hub_model(model: nn.Module) -> bool:
    """Return whether a model is one of transformers, without importing it."""
    return any(
        base.__name__ == "PreTrainedModel" and base.__module__.startswith("transformers.")
        for base in type(model).__mro__
    )


def tower_of(model: nn.Module) -> nn.Module:
    """Return the part of a transformers model that sees images; refuse models that see none."""
    vision = getattr(model, "vision_model", None)
    if isinstance(vision, nn.Module) and hasattr(model, "text_model"):
        return PooledOutput(vision, getattr(model, "visual_projection", None))
    if getattr(type(model), "main_input_name", None) != "pixel_values":
        raise BackboneError(
            f"the model must be a vision model, got a {type(model).__name__}, whose input is "
            f"{getattr(type(model), 'main_input_name', 'unknown')!r}; give a model of images"
        )
    return model


def hub_features(model: nn.Module, tower: nn.Module, example: Tensor) -> FeatureNetwork:
    """Return the features of a transformers model.

    Args:
        model: in eval mode; may be changed.
        tower: what `tower_of` gave for it.
        example: network input (2, 3, H, W).

    Raises:
        BackboneError: its features are of several kinds, or it has none.
    """
    if isinstance(tower, PooledOutput):
        return tower
    if "ForImageClassification" in type(model).__name__:
        outside = _outside_body(model).values()
        if not any(isinstance(module, (nn.Linear, nn.Conv2d)) for module in outside):
            # Saved without classes: its body in a classifier that has some.
            base = getattr(model, getattr(model, "base_model_prefix", ""), None)
            if isinstance(base, nn.Module) and is_hub_model(base):
                return hub_features(base, base, example)
        return remove_classifier(model, example, _two_heads(model))
    classifier = _as_classifier(model)
    if classifier is None:
        return PooledOutput(model)
    network = remove_classifier(classifier, example)
    constant = norms_of_head(classifier)
    if all(
        path in constant
        for outside, module in _outside_body(classifier).items()
        for path in (f"{outside}.{name}" for name, _ in module.named_parameters())
    ):
        return network
    return PooledOutput(model)  # its classifier has other layers, whose weights would be random


def _outside_body(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules of a classifier that are not in its body, by name."""
    body = getattr(model, getattr(model, "base_model_prefix", ""), None)
    inside = set(body.modules()) if isinstance(body, nn.Module) else set(model.modules())
    return {
        name: module
        for name, module in model.named_modules()
        if module not in inside and module is not model
    }


def norms_of_head(model: nn.Module) -> set[str]:
    """Return the names of the tensors in a head's normalization layers.

    A bare checkpoint does not hold them, and they always start as the same constants.
    """
    return {
        f"{path}.{name}"
        for path, module in _outside_body(model).items()
        if "Norm" in type(module).__name__
        for name in module.state_dict()
    }


def _two_heads(model: nn.Module) -> list[nn.Module]:
    """Return the heads of DeiT and LeViT with a teacher, whose logits the model averages."""
    names = ("cls_classifier", "distillation_classifier", "classifier", "classifier_distill")
    heads = [getattr(model, name) for name in names if hasattr(model, name)]
    return heads if len(heads) == 2 else []


def _as_classifier(model: Any) -> nn.Module | None:
    """Return the image classifier of a bare model's type with its weights, if there is one."""
    from transformers import (
        MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
        AutoModelForImageClassification,
    )

    if type(model.config) not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        return None
    kind = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[type(model.config)]
    kind = kind[0] if isinstance(kind, (tuple, list)) else kind  # the one without a teacher
    config = copy.deepcopy(model.config)
    config.num_labels = 2
    config.architectures = [kind.__name__]
    try:
        classifier = AutoModelForImageClassification.from_config(config, trust_remote_code=False)
        body = getattr(classifier, classifier.base_model_prefix)
        missing = body.load_state_dict(model.state_dict(), strict=False).missing_keys
    except Exception as error:
        raise BackboneError(
            f"the {type(model).__name__} cannot be put into a classifier of its type: "
            f"{described(error)}; load it as that class, or give `feature_layer`"
        ) from error
    if missing:
        return None
    reference = next(model.parameters())
    classifier.to(reference.device, reference.dtype)
    classifier.eval()
    return classifier


def timm_wrapper_normalization(model: Any) -> Normalization | None:
    """Return the normalization of a timm model inside transformers, whose processor hides it."""
    configured = getattr(getattr(model, "config", None), "pretrained_cfg", None) or {}
    if not configured.get("mean") or not configured.get("std"):
        return None
    return Normalization(configured["mean"], configured["std"])


def hub_sizes(model: Any) -> list[tuple[int, int]]:
    """Return the sizes of images that a model's configuration or processor names, best first."""
    processor = image_processor(model, fetch=True)
    config = getattr(model, "config", None)
    # A TimmWrapper's configuration holds timm's.
    timm_size = (getattr(config, "pretrained_cfg", None) or {}).get("input_size")
    image_size = getattr(config, "image_size", None)
    vision = getattr(config, "vision_config", None)
    candidates = [
        timm_size[1:] if timm_size else None,
        getattr(vision, "image_size", None),
        image_size,
        getattr(processor, "crop_size", None) if getattr(processor, "do_center_crop", 0) else None,
        getattr(processor, "size", None),
    ]
    sizes = []
    for candidate in candidates:
        if isinstance(candidate, int):
            sizes.append((candidate, candidate))
        elif isinstance(candidate, (tuple, list)) and len(candidate) == 2:
            sizes.append((int(candidate[0]), int(candidate[1])))
        elif candidate is not None:
            values = candidate if isinstance(candidate, Mapping) else vars(candidate)
            side = values.get("shortest_edge")
            height, width = values.get("height") or side, values.get("width") or side
            if height and width:
                sizes.append((int(height), int(width)))
    return sizes
