"""ZCA whitening: the transform that makes pixels uncorrelated.

One of the two kinds of `transforms.Transform`; the other and the way back from files are there.
Fitted on `real.RealData`, then called on real and synthetic images before the network.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any, Final, Self

import torch
from torch import Tensor

if TYPE_CHECKING:
    from dd_plugin.data.real.dataset import RealData

SMALLEST_STD: Final = 1 / 255  # one gray level, for channels that never change

_MOST_PIXELS = 64 * 64 * 3  # whose covariance in float64 takes 1.2 GB


class Whitening:
    """ZCA whitening: makes pixels uncorrelated, with the least change to the images.

    For pixels x, divided by the deviation of their channel, with covariance U diag(s) Uᵀ over the
    real images, it is (x - mean) U diag(s + eps)^(-1/2) Uᵀ. RaT-BPTT (Feng et al., ICLR 2024,
    arXiv 2311.07025) and the codes before it use it on CIFAR, with `kornia.enhance.ZCAWhitening` at
    eps = 0.1 on normalized images, which this agrees with.

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
        finite = all(bool(x.isfinite().all()) for x in (mean, std, matrix))
        if not finite or not bool((std > 0).all()):
            raise ValueError("`mean` and `matrix` must be finite, and `std` positive")
        self.mean = mean
        self.std = std
        self.matrix = matrix
        self.eps = float(eps)

    @classmethod
    def fit(cls, data: RealData | Tensor, *, eps: float = 0.1) -> Self:
        """Fit it to real images, in float64; the result is kept in float32.

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
        # A shift by the middle gray keeps the two terms of the covariance from cancelling.
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
        std = std.clamp(min=SMALLEST_STD)
        scale = std.repeat_interleave(shape[1] * shape[2])
        values, vectors = torch.linalg.eigh(covariance / torch.outer(scale, scale))
        matrix = (vectors * (values.clamp(min=0) + eps).rsqrt()) @ vectors.mT
        return cls((mean.view(shape) + 0.5).float(), std.float(), matrix.float(), eps=eps)

    def __call__(self, images: Tensor) -> Tensor:
        """Return network input of images (N, C, H, W) in [0, 1]."""
        self._check(images)
        with torch.autocast(images.device.type, enabled=False):
            # Half precision would cost more than whitening gains.
            dtype = torch.promote_types(images.dtype, self.matrix.dtype)
            mean, std, matrix = (x.to(images.device, dtype) for x in self._all())
            scaled = (images.to(dtype) - mean) / std.view(-1, 1, 1)
            return (scaled.flatten(1) @ matrix).view(images.shape).to(images.dtype)

    def inverse(self, images: Tensor) -> Tensor:
        """Return the images that give a network input, by a linear system in float64."""
        self._check(images)
        mean, std, matrix = (x.to(images.device, torch.float64) for x in self._all())
        scaled = torch.linalg.solve(matrix, images.flatten(1).double(), left=False)
        return (scaled.view(images.shape) * std.view(-1, 1, 1) + mean).to(images.dtype)

    def to(self, device: torch.device | str) -> Self:
        """Return the same transform with its tensors on a device."""
        moved = copy.copy(self)
        moved.mean, moved.std, moved.matrix = (x.to(device) for x in self._all())
        return moved

    def metadata(self) -> dict[str, Any]:
        """Return kind, eps and the shape of the images."""
        return {"kind": self.kind, "eps": self.eps, "shape": list(self.mean.shape)}

    def to_tensors(self) -> dict[str, Tensor]:
        """Return mean, std and matrix."""
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
