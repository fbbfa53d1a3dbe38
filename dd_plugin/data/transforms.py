"""Transforms from pixels in [0, 1] to the input of a network, and normalization.

Real and synthetic images pass through the same transform, between augmentation and network, and the
gradient passes back through it into the synthetic pixels. A distilled set is of no use without its
transform, so each one has a form that can be stored: JSON (`metadata`) and tensors (`to_tensors`),
which `transform_from` puts together again. Transforms are fitted on `real.RealData`; the other one
is in `whitening`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Protocol, Self

import torch
from torch import Tensor, nn

from dd_plugin.data.whitening import SMALLEST_STD, Whitening
from dd_plugin.hub_access import hub_access, revision_of

if TYPE_CHECKING:
    from dd_plugin.data.real.dataset import RealData


class Transform(Protocol):
    """A map from pixel space to network input, and back."""

    def __call__(self, images: Tensor) -> Tensor:
        """Return network input of images (N, C, H, W) in [0, 1]."""

    def inverse(self, images: Tensor) -> Tensor:
        """Return the images that give a network input."""

    def to(self, device: torch.device | str) -> Self:
        """Return the same transform with its tensors on a device."""

    def metadata(self) -> dict[str, Any]:
        """Return the part that JSON can hold; `kind` says which transform it is."""

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the rest, on the CPU."""


class Normalization:
    """Subtracts a mean from each channel and divides by a standard deviation.

    Args:
        mean: of each channel, in units of pixels in [0, 1].
        std: likewise; positive.
    """

    kind = "normalization"

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean = [float(value) for value in mean]
        self.std = [float(value) for value in std]
        if len(self.mean) != len(self.std) or not self.mean:
            raise ValueError(
                "`mean` and `std` must have one value per channel each, "
                f"got {len(self.mean)} and {len(self.std)}"
            )
        if not all(map(math.isfinite, [*self.mean, *self.std])) or min(self.std) <= 0:
            raise ValueError(
                f"`mean` must be finite and `std` positive, got {self.mean} and {self.std}"
            )
        self._mean = torch.tensor(self.mean, dtype=torch.float64).view(-1, 1, 1)
        self._std = torch.tensor(self.std, dtype=torch.float64).view(-1, 1, 1)

    @classmethod
    def from_model(
        cls, model: nn.Module, *, channels: int | None = None, fetch: bool = False
    ) -> Normalization | None:
        """Return the normalization that a model was made for, or None if it does not say.

        timm's models say it in their `pretrained_cfg`. For a Hugging Face model it is its image
        processor that says it, in the folder or on the Hub, where the model came from.

        Args:
            model: a timm or Hugging Face model.
            channels: of the images. Where the model's values are for another number, one value is
                repeated, several are averaged for gray images, and anything else gives None.
            fetch: ask the Hub for an image processor that is not in the local cache.
        """
        mean_and_std = _from_timm(model) or _from_image_processor(model, fetch)
        if mean_and_std is None:
            return None
        mean, std = (list(map(float, values)) for values in mean_and_std)
        if channels is not None and len(mean) != channels:
            if len(mean) == 1:
                mean, std = mean * channels, std * channels
            elif channels == 1:
                mean, std = [sum(mean) / len(mean)], [sum(std) / len(std)]
            else:
                return None
        return cls(mean, std)

    @classmethod
    def from_data(cls, data: RealData) -> Normalization:
        """Make one of the data's mean and deviation; a constant channel counts as 1/255."""
        mean, std = data.mean_std()
        return cls(mean, [max(value, SMALLEST_STD) for value in std])

    def __call__(self, images: Tensor) -> Tensor:
        """Return network input of images (N, C, H, W) in [0, 1]."""
        self._check(images)
        return (images - self._mean.to(images)) / self._std.to(images)

    def inverse(self, images: Tensor) -> Tensor:
        """Return the images that give a network input."""
        self._check(images)
        return images * self._std.to(images) + self._mean.to(images)

    def to(self, device: torch.device | str) -> Normalization:
        """Return the same transform with its tensors on a device."""
        moved = copy.copy(self)
        moved._mean, moved._std = self._mean.to(device), self._std.to(device)
        return moved

    def metadata(self) -> dict[str, Any]:
        """Return kind, mean and std, which are all there is."""
        return {"kind": self.kind, "mean": self.mean, "std": self.std}

    def to_tensors(self) -> dict[str, Tensor]:
        """Return nothing."""
        return {}

    def _check(self, images: Tensor) -> None:
        if images.ndim < 3 or images.shape[-3] != len(self.mean):
            raise ValueError(
                f"`images` must be (N, {len(self.mean)}, H, W), since the normalization has values "
                f"for {len(self.mean)} channels, got {tuple(images.shape)}"
            )

    def __repr__(self) -> str:
        return f"Normalization(mean={self.mean}, std={self.std})"


def _from_timm(model: nn.Module) -> tuple[Any, Any] | None:
    config = getattr(model, "pretrained_cfg", None)
    if not isinstance(config, Mapping) or not config.get("mean") or not config.get("std"):
        return None
    return config["mean"], config["std"]


def image_processor(model: Any, *, fetch: bool) -> Any:
    """Return the image processor of a model from the Hub or a folder; None if it has none.

    Args:
        model: Any model.
        fetch: Ask the Hub if the local cache does not have it.
    """
    name = getattr(getattr(model, "config", None), "name_or_path", None)
    if not isinstance(name, str) or not name:
        return None
    from transformers import AutoImageProcessor

    try:
        with hub_access(name) if fetch else nullcontext():
            return AutoImageProcessor.from_pretrained(
                name,
                revision=revision_of(model) or "main",
                local_files_only=not fetch,
                trust_remote_code=False,
            )
    except (OSError, ValueError, KeyError, ImportError):
        return None


def _from_image_processor(model: nn.Module, fetch: bool) -> tuple[Any, Any] | None:
    processor = image_processor(model, fetch=fetch)
    if processor is None:
        return None
    factor = 255.0
    if getattr(processor, "do_rescale", False):
        factor *= processor.rescale_factor
    if getattr(processor, "do_normalize", False):
        mean, std = processor.image_mean, processor.image_std
    else:
        mean, std = [0.0], [1.0]
    mean, std = ([x] if isinstance(x, (int, float)) else list(x) for x in (mean, std))
    # The processor computes (255 f x - mean) / std of pixels x in [0, 1].
    return [value / factor for value in mean], [value / factor for value in std]


def transform_from(metadata: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Transform:
    """Return the transform that `metadata()` and `to_tensors()` came from.

    Args:
        metadata: what was stored as JSON.
        tensors: what was stored as tensors.

    Raises:
        ValueError: the kind is unknown, something is missing, or it does not fit together.
    """
    kind = metadata.get("kind")
    try:
        if kind == Normalization.kind:
            return Normalization(metadata["mean"], metadata["std"])
        if kind == Whitening.kind:
            loaded = Whitening(
                tensors["mean"], tensors["std"], tensors["matrix"], eps=metadata["eps"]
            )
            if list(loaded.mean.shape) != list(metadata["shape"]):
                raise ValueError(
                    f"the shape must be {metadata['shape']}, got {list(loaded.mean.shape)}"
                )
            return loaded
    except (KeyError, TypeError) as error:
        raise ValueError(f"the stored transform {kind!r} is damaged: {error!r}") from error
    raise ValueError(
        f"`kind` of a transform must be {Normalization.kind!r} or {Whitening.kind!r}, got {kind!r}"
    )
