"""The decorrelated color space: directions of color in which real images vary independently.

Used by `parametrization.Pyramid`, whose levels hold coordinates in this space. The channels of
photographs rise and fall together. Adam moves each of them as far as the others, so red, green and
blue become vivid noise. Feature visualization therefore learns images in decorrelated
colors, with constants taken from ImageNet (Olah, Mordvintsev and Schubert, Distill 2017,
doi:10.23915/distill.00007). Here they are fitted to the images that are distilled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

if TYPE_CHECKING:
    from dd_plugin.data.real.dataset import RealData

# The shortest direction, compared with the longest. Gray images that are stored in color have no
# variance but in one direction, and the way back must exist.
SMALLEST_AMPLITUDE: Final = 0.1


def color_covariance(data: RealData | Tensor) -> Tensor:
    """Return the covariance of the channels over all pixels of all images.

    Args:
        data: real images, of which those that `RealData.sample` gives are used, or a tensor
            ``(N, C, H, W)`` in [0, 1].

    Returns:
        ``(C, C)``, float64.

    Raises:
        ValueError: there are no images.
    """
    count, total, products = 0, torch.zeros(()), torch.zeros(())
    for images in data.split(1024) if isinstance(data, Tensor) else data.sample(1024):
        # A shift by the middle gray keeps the two terms of the covariance from cancelling.
        pixels = images.detach().transpose(0, 1).flatten(1).cpu().double() - 0.5
        count += pixels.shape[1]
        total = total + pixels.sum(1)
        products = products + pixels @ pixels.mT
    if not count:
        raise ValueError("`data` must have at least one image to fit a color space to, got none")
    mean = total / count
    return products / count - torch.outer(mean, mean)


def decorrelating_basis(data: RealData | Tensor) -> Tensor:
    """Return directions of color, each as long as the deviation of real images along it.

    With the covariance U diag(s) Uᵀ of the channels they are the columns of U diag(√s), scaled so
    that the longest has the length √C: if it is gray, then one unit of it is one unit of each
    channel. No direction is shorter than a tenth of the longest. Coordinates of real images in this
    basis are uncorrelated and have equal variances, but for directions that were lengthened.

    Args:
        data: see `color_covariance`.

    Returns:
        ``(C, C)``, float64: colors are ``basis @ coordinates``. The identity for one channel, and
        for images that are all of one color.
    """
    covariance = color_covariance(data)
    channels = len(covariance)
    values, vectors = torch.linalg.eigh(covariance)
    amplitudes = values.clamp(min=0).sqrt()
    if channels == 1 or float(amplitudes.max()) < 1e-6:
        return torch.eye(channels, dtype=torch.float64)
    amplitudes = (amplitudes / amplitudes.max()).clamp(min=SMALLEST_AMPLITUDE)
    # Eigenvectors have no sign of their own, and libraries disagree.
    largest = vectors.abs().argmax(0)
    signs = vectors.gather(0, largest[None]).sign()
    return (vectors * signs * amplitudes * channels**0.5).flip(1)
