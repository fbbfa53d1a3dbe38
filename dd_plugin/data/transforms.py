"""From pixels in [0, 1] to what a network is fed: per-channel normalisation, or ZCA whitening.

Real and synthetic images pass through the same transform, between augmentation and network, and the
gradient passes back through it into the synthetic pixels. A distilled set is of no use without its
transform, so each one can be taken apart into JSON (`metadata`) and tensors (`to_tensors`) and put
together again (`transform_from`). Fitted on `real.RealData`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from dd_plugin.data.real import RealData

_SMALLEST_STD = 1 / 255  # one grey level, for channels that never change
_MOST_PIXELS = 64 * 64 * 3  # whose covariance in float64 takes 1.2 GB


class Transform(Protocol):
    """What maps pixel space to network input, and back."""

    def __call__(self, images: Tensor) -> Tensor:
        """Network input of images (N, C, H, W) in [0, 1]."""

    def inverse(self, images: Tensor) -> Tensor:
        """The images that give a network input."""

    def to(self, device: torch.device | str) -> Self:
        """The same transform with its tensors on a device."""

    def metadata(self) -> dict[str, Any]:
        """What JSON can hold of it; `kind` says which transform it is."""

    def to_tensors(self) -> dict[str, Tensor]:
        """The rest, on the CPU."""


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
    def from_model(cls, model: nn.Module, *, channels: int | None = None) -> Normalization | None:
        """The one that the model was made for, or None if the model does not say.

        timm's models say it in their `pretrained_cfg`, which `timm.data.resolve_model_data_config`
        reads. For a Hugging Face model its image processor is looked for in the folder or the local
        cache that the model came from; nothing is fetched.

        Args:
            model: a timm or Hugging Face model.
            channels: of the images. Where the model's values are for another number, one value is
                repeated, several are averaged for grey images, and anything else gives None.
        """
        found = _from_timm(model) or _from_image_processor(model)
        if found is None:
            return None
        mean, std = (list(map(float, values)) for values in found)
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
        """With mean and deviation of the data; a channel that never changes counts as 1/255."""
        mean, std = data.mean_std()
        return cls(mean, [max(value, _SMALLEST_STD) for value in std])

    def __call__(self, images: Tensor) -> Tensor:
        """Network input of images (N, C, H, W) in [0, 1]."""
        self._check(images)
        return (images - self._mean.to(images)) / self._std.to(images)

    def inverse(self, images: Tensor) -> Tensor:
        """The images that give a network input."""
        self._check(images)
        return images * self._std.to(images) + self._mean.to(images)

    def to(self, device: torch.device | str) -> Normalization:
        """The same transform with its tensors on a device."""
        moved = copy.copy(self)
        moved._mean, moved._std = self._mean.to(device), self._std.to(device)
        return moved

    def metadata(self) -> dict[str, Any]:
        """All there is to it: kind, mean and std."""
        return {"kind": self.kind, "mean": self.mean, "std": self.std}

    def to_tensors(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def _check(self, images: Tensor) -> None:
        if images.ndim < 3 or images.shape[-3] != len(self.mean):
            raise ValueError(
                f"`images` must be (N, {len(self.mean)}, H, W), since the normalisation has values "
                f"for {len(self.mean)} channels, got {tuple(images.shape)}"
            )

    def __repr__(self) -> str:
        return f"Normalization(mean={self.mean}, std={self.std})"


def _from_timm(model: nn.Module) -> tuple[Any, Any] | None:
    config = getattr(model, "pretrained_cfg", None)
    if not isinstance(config, Mapping) or not config.get("mean") or not config.get("std"):
        return None
    from timm.data import resolve_model_data_config

    resolved = resolve_model_data_config(model)
    return resolved["mean"], resolved["std"]


def _from_image_processor(model: nn.Module) -> tuple[Any, Any] | None:
    name = getattr(getattr(model, "config", None), "_name_or_path", None)
    if not isinstance(name, str) or not name:
        return None
    from transformers import AutoImageProcessor

    try:
        processor = AutoImageProcessor.from_pretrained(name, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError):
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


class Whitening:
    """ZCA whitening: makes pixels uncorrelated, with the least change to the images.

    For pixels x, divided by the deviation of their channel, with covariance U diag(s) Uᵀ over the
    real images, it is (x - mean) U diag(s + eps)^(-1/2) Uᵀ. RaT-BPTT (Feng et al., ICLR 2024,
    arXiv 2310.04592) and the codes before it use it on CIFAR, with `kornia.enhance.ZCAWhitening` at
    eps = 0.1 on normalised images, which this agrees with.

    Made by `fit`, or by `transform_from` from what was stored.

    Args:
        mean: mean image (C, H, W) in [0, 1].
        std: deviation of each channel (C,).
        matrix: the symmetric whitening matrix, (C H W) squared.
        eps: what it was fitted with, for the record.
    """

    kind = "whitening"

    def __init__(self, mean: Tensor, std: Tensor, matrix: Tensor, *, eps: float) -> None:
        size = mean.numel()
        if mean.ndim != 3 or std.shape != mean.shape[:1] or matrix.shape != (size, size):
            raise ValueError(
                "`mean`, `std` and `matrix` must be (C, H, W), (C,) and (C H W, C H W), got "
                f"{tuple(mean.shape)}, {tuple(std.shape)} and {tuple(matrix.shape)}"
            )
        if not all(bool(x.isfinite().all()) for x in (mean, std, matrix)) or bool((std <= 0).any()):
            raise ValueError("`mean` and `matrix` must be finite, and `std` positive")
        self.mean = mean
        self.std = std
        self.matrix = matrix
        self.eps = float(eps)

    @classmethod
    def fit(cls, data: RealData | Tensor, *, eps: float = 0.1) -> Self:
        """Fits it to real images, in float64; the result is kept in float32.

        The work grows with (C H W)² times the number of images, and with (C H W)³.

        Args:
            data: the real images, of which those that `RealData.sample` gives are used, or a tensor
                of images (N, C, H, W) in [0, 1].
            eps: added to the variances; in units of the variance of a channel.

        Raises:
            ValueError: the images are too large for a matrix of pixels by pixels, too few, or `eps`
                is not positive.
        """
        if not eps > 0 or not math.isfinite(eps):
            raise ValueError(f"`eps` must be positive, got {eps}")
        shape = tuple(data.shape[-3:])
        size = math.prod(shape)
        if size > _MOST_PIXELS:
            raise ValueError(
                f"images of {' x '.join(map(str, shape))} have {size} values, too many for ZCA "
                f"whitening (at most {_MOST_PIXELS}); use Normalization, or a smaller `image_size`"
            )
        # A shift by the middle grey keeps the two terms of the covariance from cancelling.
        count = 0
        total: Tensor | None = None
        products: Tensor | None = None
        for images in data.split(4096) if isinstance(data, Tensor) else data.sample(4096):
            x = images.flatten(1).double() - 0.5
            if total is None or products is None:
                total, products = x.new_zeros(size), x.new_zeros(size, size)
            total += x.sum(0)
            products.addmm_(x.mT, x)
            count += len(x)
        if count < 2 or total is None or products is None:
            raise ValueError(f"whitening must be fitted to at least two images, got {count}")
        mean = total / count
        covariance = (products - count * torch.outer(mean, mean)) / (count - 1)
        # Over the pixels of a channel: E[x²] - E[x]².
        squares = (products.diagonal() / count).view(shape).mean((1, 2))
        std = (squares - mean.view(shape).mean((1, 2)).square()).clamp(min=0).sqrt()
        std = std.clamp(min=_SMALLEST_STD)
        scale = std.repeat_interleave(shape[1] * shape[2])
        values, vectors = torch.linalg.eigh(covariance / torch.outer(scale, scale))
        matrix = (vectors * (values.clamp(min=0) + eps).rsqrt()) @ vectors.mT
        return cls((mean.view(shape) + 0.5).float(), std.float(), matrix.float(), eps=eps)

    def __call__(self, images: Tensor) -> Tensor:
        """Network input of images (N, C, H, W) in [0, 1]."""
        self._check(images)
        with torch.autocast(images.device.type, enabled=False):
            # Half precision would cost more than whitening gains.
            dtype = torch.promote_types(images.dtype, self.matrix.dtype)
            mean, std, matrix = (x.to(images.device, dtype) for x in self._all())
            scaled = (images.to(dtype) - mean) / std.view(-1, 1, 1)
            return (scaled.flatten(1) @ matrix).view(images.shape).to(images.dtype)

    def inverse(self, images: Tensor) -> Tensor:
        """The images that give a network input; solves a linear system in float64."""
        self._check(images)
        mean, std, matrix = (x.to(images.device, torch.float64) for x in self._all())
        scaled = torch.linalg.solve(matrix, images.flatten(1).double(), left=False)
        return (scaled.view(images.shape) * std.view(-1, 1, 1) + mean).to(images.dtype)

    def to(self, device: torch.device | str) -> Self:
        """The same transform with its tensors on a device."""
        moved = copy.copy(self)
        moved.mean, moved.std, moved.matrix = (x.to(device) for x in self._all())
        return moved

    def metadata(self) -> dict[str, Any]:
        """Kind, eps and the shape of the images."""
        return {"kind": self.kind, "eps": self.eps, "shape": list(self.mean.shape)}

    def to_tensors(self) -> dict[str, Tensor]:
        """Mean, std and matrix."""
        names = ("mean", "std", "matrix")
        return {
            name: x.detach().cpu().contiguous() for name, x in zip(names, self._all(), strict=True)
        }

    def _all(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.mean, self.std, self.matrix

    def _check(self, images: Tensor) -> None:
        if images.ndim != 4 or images.shape[1:] != self.mean.shape:
            raise ValueError(
                f"`images` must be (N, {', '.join(map(str, self.mean.shape))}), the shape that the "
                f"whitening was fitted to, got {tuple(images.shape)}"
            )

    def __repr__(self) -> str:
        return f"Whitening(shape={tuple(self.mean.shape)}, eps={self.eps})"


def transform_from(metadata: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Transform:
    """The transform that `metadata()` and `to_tensors()` came from.

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
