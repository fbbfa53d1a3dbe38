"""Frozen backbones: a pretrained model whose features a head is trained on.

`load_backbone` takes a name or a module and finds out what its own head takes, which sizes of
images it accepts, and how its input is normalized (`module_features`). The `Backbone` maps images
in [0, 1] to features and never changes its weights; the gradient reaches the images.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dd_plugin.data import Normalization
from dd_plugin.hub_access import revision_of
from dd_plugin.networks.classifier import FeatureNetwork
from dd_plugin.networks.errors import BackboneError
from dd_plugin.networks.fingerprint import fingerprint
from dd_plugin.networks.lite_weights import LITE_PREFIX, load_lite
from dd_plugin.networks.module_features import check_loaded, feature_network, normalization_of
from dd_plugin.networks.names import check_record, load_model, load_vision_model
from dd_plugin.networks.timm_models import TIMM_PREFIX
from dd_plugin.text import described

__all__ = ["TIMM_PREFIX", "Backbone", "BackboneError", "load_backbone"]


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
        found = self.normalization(images).to(reference.device, reference.dtype)
        return found.contiguous(memory_format=torch.channels_last) if self.channels_last else found

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
    asked = _size(image_size)
    if isinstance(model, Backbone):
        changes = {"feature_layer": feature_layer, "revision": revision, "size": asked}
        return _moved(model, device, dtype, normalization, **changes)
    missing: list[str] = []
    name = model if isinstance(model, str) else None
    if isinstance(model, str):
        module, missing = _load(model, pretrained, revision, asked)
    elif isinstance(model, nn.Module):
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
            module = copy.deepcopy(model)
        except Exception as error:
            raise BackboneError(
                f"the {type(model).__name__} must be copyable, and copying it failed "
                f"({described(error)}); give one that `copy.deepcopy` takes"
            ) from error
    else:
        raise BackboneError(
            f"`model` must be a name or a torch.nn.Module, got a {type(model).__name__}; write "
            "timm/NAME, the id of a model on the Hub, or a local folder"
        )
    module.eval()
    if any(value.dtype in (torch.float16, torch.bfloat16) for value in module.parameters()):
        module.float()  # no value changes, and the trials that follow are precise
    network, size = feature_network(module, asked, feature_layer)
    check_loaded(name, network, module, missing)
    found = normalization or normalization_of(module, name)
    trainable = frozenset(path for path, value in network.named_parameters() if value.requires_grad)
    identity = fingerprint(network)
    network.to(device=device, dtype=dtype)
    with torch.no_grad():
        reference = next(network.parameters())
        num_features = network(reference.new_zeros(1, 3, *size)).shape[1]
    return Backbone(
        network,
        name=name,
        num_features=num_features,
        size=size,
        always_resize=asked is not None,
        normalization=found,
        fingerprint=identity,
        revision=revision_of(module) or revision,
        trainable=trainable,
        feature_layer=feature_layer,
    )


def _moved(
    backbone: Backbone,
    device: torch.device | str,
    dtype: torch.dtype,
    normalization: Normalization | None,
    **changes: Any,
) -> Backbone:
    """Return a copy of a backbone, which is loaded already."""
    for name, value in changes.items():
        if value is not None and value != getattr(backbone, name, None):
            raise BackboneError(
                f"`{name}` must be left out for a `Backbone`, got {value!r}; give it to the "
                "`load_backbone` that makes it"
            )
    moved = copy.deepcopy(backbone).to(device=device, dtype=dtype)
    moved.normalization = normalization or backbone.normalization
    return moved


def check_recorded_backbone(name: str) -> None:
    """See that the name of a backbone that a file gives leads to nothing on this machine.

    Raises:
        ModelLoadError: it could.
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
