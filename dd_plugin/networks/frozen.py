"""A frozen network: images in [0, 1] come in, features go out, and a new head can be put on top.

Made by `backbones.load_backbone`. It resizes and normalizes images as the network wants them, and
the gradient passes through to the images.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dd_plugin.data import Normalization
from dd_plugin.networks.errors import BackboneError
from dd_plugin.networks.feature_networks import FeatureNetwork

__all__ = ["Backbone"]


class Backbone(nn.Module):
    """A frozen network that maps images in [0, 1] to features.

    Made by `load_backbone`. It stays in eval mode whatever `train` is called with, and no parameter
    of it requires a gradient.

    Attributes:
        name: how it was loaded; None for a module of the user's.
        num_features: length d of a feature vector.
        size: height and width of its own input.
        normalization: of its input.
        fingerprint: of the weights that its features depend on, as they were loaded; the
            classifier is not among them.
        revision: of the files on the Hub, where known.
        feature_layer: the layer whose output the features are, where it was named.
        channels_last: whether it computes in that memory layout, in which networks of convolutions
            take less time.
    """

    name: str | None
    num_features: int
    size: tuple[int, int]
    normalization: Normalization
    fingerprint: str
    revision: str | None
    feature_layer: str | None
    channels_last: bool

    def __init__(
        self,
        network: FeatureNetwork,
        *,
        name: str | None,
        num_features: int,
        size: tuple[int, int],
        always_resize: bool,
        normalization: Normalization,
        fingerprint: str,
        revision: str | None,
        trainable: frozenset[str],
        feature_layer: str | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.name = name
        self.num_features = num_features
        self.size = size
        self.normalization = normalization
        self.fingerprint = fingerprint
        self.revision = revision
        self.feature_layer = feature_layer
        # The layout of a vision transformer is that of its tokens.
        self.channels_last = sum(isinstance(m, nn.Conv2d) for m in network.modules()) > 1
        if self.channels_last:
            network.to(memory_format=torch.channels_last)
        self._trainable = trainable
        self._takes: dict[tuple[int, int], bool] = {size: True}
        self._always_resize = always_resize
        self.requires_grad_(False)
        nn.Module.train(self, False)

    def train(self, mode: bool = True) -> Self:
        """Do nothing: a frozen backbone stays in eval mode."""
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Do nothing but freeze: no parameter of a frozen backbone requires a gradient."""
        return super().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Return features of images.

        Args:
            images: (N, 3, H, W) in [0, 1], of any height and width.

        Returns:
            Features (N, d) in the dtype of the images, differentiable with respect to them.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise BackboneError(
                f"`images` must be (N, 3, H, W) in [0, 1], got {tuple(images.shape)}"
            )
        features = self.network(self.network_input(images))
        return features.to(images.dtype)

    def network_input(self, images: Tensor) -> Tensor:
        """Return what the network itself is fed: images resized where it has to be, normalized.

        The model that `with_head` returns takes this.
        """
        size = self.input_size(int(images.shape[-2]), int(images.shape[-1]))
        if size != tuple(images.shape[-2:]):
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        reference = next(self.network.parameters(), images)
        normalized = self.normalization(images).to(reference.device, reference.dtype)
        if self.channels_last:
            return normalized.contiguous(memory_format=torch.channels_last)
        return normalized

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the size at which the network sees images of a size.

        It is the same size if the network takes it, which is tried once for each, else `size`.
        """
        if self._always_resize:
            return self.size
        if (height, width) not in self._takes:
            self._takes[height, width] = self._try(height, width)
        return (height, width) if self._takes[height, width] else self.size

    def _try(self, height: int, width: int) -> bool:
        reference = next(self.network.parameters())
        example = reference.new_zeros(1, 3, height, width)
        try:
            with torch.no_grad():
                return self.network(example).shape == (1, self.num_features)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # noqa: BLE001 - each network refuses a size in its own way
            return False

    def with_head(self, weight: Tensor, bias: Tensor, class_names: Sequence[str]) -> nn.Module:
        """Return the ordinary model with a linear head in place of its own.

        Args:
            weight: (classes, d).
            bias: (classes,).
            class_names: one for each class; set as `class_names` on any model, and as `id2label` in
                the configuration of a transformers model.

        Returns:
            A copy of the timm, transformers or user's model, on the same device and in the same
            dtype, in eval mode, its parameters trainable as they were. It takes what the model
            always took: normalized images of its size, as `network_input` makes them from images in
            [0, 1]. A timm model returns logits; a transformers model returns an output with
            `logits`. Where the model has no place for a head (CLIP, SigLIP, a layer in the middle)
            it is a `FeatureClassifier`, which returns logits.
        """
        names = [str(name) for name in class_names]
        classes = len(names)
        if tuple(weight.shape) != (classes, self.num_features) or tuple(bias.shape) != (classes,):
            raise BackboneError(
                f"`weight` must be ({classes}, {self.num_features}) and `bias` ({classes},) for "
                f"{classes} classes, got {tuple(weight.shape)} and {tuple(bias.shape)}"
            )
        network = copy.deepcopy(self.network).to(memory_format=torch.contiguous_format)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in self._trainable)
        reference = next(network.parameters())
        model = network.with_head(weight.to(reference), bias.to(reference))
        _tell_classes(model, names)
        model.eval()
        return model


def _tell_classes(model: Any, names: list[str]) -> None:
    """Set the number of classes and their names wherever a library looks for them."""
    model.class_names = names
    config = getattr(model, "config", None)
    if config is not None and hasattr(config, "id2label"):
        config.id2label = dict(enumerate(names))
        config.label2id = {name: index for index, name in enumerate(names)}
        config.problem_type = None
        model.num_labels = len(names)
    for module in model.modules():
        if isinstance(getattr(module, "num_classes", None), int):
            module.num_classes = len(names)
