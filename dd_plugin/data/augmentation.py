"""Differentiable augmentation, repeatable from a seed and shared within groups of images.

Between the synthetic or real images in pixel space and the `Transform` that normalizes them. The
transformations and their strengths are those of DSA (Zhao and Bilen, arXiv 2102.08259).
Plain tensor operations: kornia 0.9 draws from the global generator and takes no other. Its flip,
cutout, rotation and color took 0.7 to 2.8 times as long, forward and backward (one CPU core,
10x1x28x28 and 256x3x32x32).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dd_plugin.data.augmentation_names import augmentation_names
from dd_plugin.data.resampling import AffineMap, resample

# Strengths, as in DSA's published code. Its brightness is added to normalized images; here it is
# that times 0.25, a usual standard deviation of pixels.
FLIP_PROBABILITY = 0.5
LARGEST_SCALE = 1.2
LARGEST_ANGLE = 15.0
LARGEST_SHIFT = 0.125
CUTOUT_SIZE = 0.5
BRIGHTNESS = 0.5 * 0.25
LARGEST_SATURATION = 2.0
CONTRAST = (0.5, 1.5)

# The others. The crop is that of usual training on photographs (Inception's), of milder scale.
CROP_AREA = (0.35, 1.0)
CROP_RATIO = (3 / 4, 4 / 3)
LARGEST_NOISE = 0.1
NOISE_CUT = 3.0


class Augmentation:
    """Random transformations of images in [0, 1].

    | name | what it does | parameters, uniform |
    |---|---|---|
    | ``flip`` | mirrors left and right | with probability 1/2 |
    | ``crop`` | moves by whole pixels, the rest filled | up to 1/8 of height and width |
    | ``shift`` | the same, the rest mirrored at the border | up to 1/8 |
    | ``rotate`` | turns about the center, bilinear | up to 15 degrees |
    | ``scale`` | stretches height and width, each by itself, bilinear | 1/1.2 to 1.2 |
    | ``cutout`` | fills a rectangle | half of height and width, any center |
    | ``color`` | brightness, saturation and contrast | ±0.125; 0 to 2; 0.5 to 1.5 |
    | ``resizedcrop`` | enlarges a part of the image, bilinear | area 0.35 to 1; ratio 3/4 to 4/3 |
    | ``noise`` | adds Gaussian noise, cut off at 3 deviations | deviation up to 0.1 |

    All but ``shift``, ``resizedcrop`` and ``noise`` are DSA's, with its strengths; its brightness
    is ±0.5 of a normalized image, hence ±0.125 of one in [0, 1] at a standard deviation of 0.25.

    Each is an affine function of the pixels, so ordinary autograd gives exact gradients.
    Results of ``color`` and ``noise`` are not clamped: they leave [0, 1] by up to some tenths, and
    keep their gradient there. The others stay between the smallest and the largest of the image and
    the fill.

    Args:
        names: transformations joined by ``_``, such as ``"flip_rotate"``, of which each call does
            one; or joined by ``+``, such as ``"resizedcrop+flip+noise"``, of which each call does
            all; ``"dsa"`` stands for ``"color_crop_cutout_flip_scale_rotate"``; ``""`` or
            ``"none"`` for none at all.
        compose: do all of them, in the order of ``names``, as ``+`` does. Otherwise one of them,
            drawn for each call, as DSA does.
        fill: what comes in where there is no image: one value, or one per channel. DSA fills
            normalized images with 0, which in [0, 1] is the mean of the data set.

    Raises:
        ValueError: a name that there is not, one twice, or ``_`` beside ``+``.
    """

    def __init__(
        self, names: str, *, compose: bool = False, fill: float | Sequence[float] = 0.0
    ) -> None:
        self.names = augmentation_names(names)
        self.compose = compose or "+" in names
        self.fill = fill

    def __repr__(self) -> str:
        options = f", compose={self.compose}" if self.compose else ""
        return f"Augmentation({'_'.join(self.names)!r}{options})"

    def __call__(self, images: Tensor, seed: int, *, groups: Tensor | None = None) -> Tensor:
        """Return augmented images.

        Args:
            images: ``(N, C, H, W)``, float32 or float64.
            seed: the same seed gives the same transformations, on any device.
            groups: ``(N,)``, integers from 0: images of one group share one transformation,
                whatever the other groups and sizes of groups are. With the same seed that holds
                across calls, so synthetic and real images of a class can share theirs. By default
                each image is a group of its own.

        Returns:
            ``(N, C, H, W)``.

        Raises:
            ValueError: shapes or groups that are not as described.
            TypeError: images that are not floating-point.
        """
        return self.of_parts(images, [seed], groups=groups)

    def of_parts(
        self, images: Tensor, seeds: Sequence[int], *, groups: Tensor | None = None
    ) -> Tensor:
        """Return what a call with each seed gives for its part of the images, in fewer operations.

        Args:
            images: ``(parts * N, C, H, W)``, the parts one after the other.
            seeds: one per part.
            groups: ``(parts * N,)``; see above.

        Returns:
            ``(parts * N, C, H, W)``.

        Raises:
            ValueError, TypeError: see above, or the images cannot be divided into as many parts.
        """
        _check(images, groups)
        if not self.names or not len(images):
            return images
        size, left = divmod(len(images), len(seeds))
        if left:
            raise ValueError(f"{len(images)} images cannot be divided into {len(seeds)} parts")
        rows = torch.arange(size).repeat(len(seeds)) if groups is None else _rows(groups)
        # Parts that go through the same transformations go through them together.
        parts: dict[tuple[str, ...], list[int]] = {}
        numbers: list[list[Tensor]] = []
        for part, (seed, rows_of_part) in enumerate(zip(seeds, rows.split(size), strict=True)):
            chosen, drawn = self._draw(seed, rows_of_part)
            parts.setdefault(chosen, []).append(part)
            numbers.append(drawn)
        fill = self._fill(images)
        if len(parts) == 1:
            return _transformed(images, next(iter(parts)), numbers, fill)
        split, done = images.split(size), [images] * len(seeds)
        for chosen, members in parts.items():
            together = torch.cat([split[part] for part in members])
            together = _transformed(together, chosen, [numbers[part] for part in members], fill)
            for part, result in zip(members, together.split(size), strict=True):
                done[part] = result
        return torch.cat(done)

    def _draw(self, seed: int, rows: Tensor) -> tuple[tuple[str, ...], list[Tensor]]:
        """Return the transformations of a call, and the numbers ``(N, 4)`` of each."""
        generator = torch.Generator().manual_seed(seed)
        chosen = self.names
        if not self.compose:
            chosen = (chosen[int(torch.randint(len(chosen), (), generator=generator))],)
        drawn = []
        for _ in chosen:
            # One generator each, and one row per group, so that neither the other transformations
            # nor the number of groups change what a group gets.
            numbers = torch.Generator().manual_seed(
                int(torch.randint(1 << 62, (), generator=generator))
            )
            drawn.append(
                torch.rand(int(rows.max()) + 1, 4, generator=numbers, dtype=torch.float64)[rows]
            )
        return chosen, drawn

    def _fill(self, images: Tensor) -> Tensor:
        fill = torch.as_tensor(self.fill, dtype=images.dtype, device=images.device).view(-1)
        if len(fill) not in (1, images.shape[1]):
            raise ValueError(
                f"`fill` must be one value or one for each of {images.shape[1]} channels, got "
                f"{len(fill)}"
            )
        return fill.view(1, -1, 1, 1)


def _check(images: Tensor, groups: Tensor | None) -> None:
    if not images.is_floating_point():
        raise TypeError(
            f"`images` must be floating-point in [0, 1], got {images.dtype}; divide bytes by 255"
        )
    if images.dim() != 4:
        raise ValueError(f"`images` must be (N, C, H, W), got shape {tuple(images.shape)}")
    if groups is None:
        return
    if groups.shape != images.shape[:1] or groups.is_floating_point() or groups.is_complex():
        raise ValueError(
            f"`groups` must be {len(images)} integers, one per image, got {groups.dtype} of shape "
            f"{tuple(groups.shape)}"
        )


def _transformed(
    images: Tensor, names: Sequence[str], numbers: Sequence[Sequence[Tensor]], fill: Tensor
) -> Tensor:
    """Return images after some transformations, with the numbers of their parts."""
    for name, of_parts in zip(names, zip(*numbers, strict=True), strict=True):
        images = _TRANSFORMATIONS[name](images, torch.cat(of_parts).unbind(1), fill)
    return images


def _rows(groups: Tensor) -> Tensor:
    """Return the groups on the CPU, checked there, where no GPU has to be waited for."""
    rows = groups.cpu()
    if int(rows.min()) < 0:
        raise ValueError(f"`groups` must not be negative, got {int(rows.min())}")
    return rows


# The transformations: images, uniform numbers per image (each (N,) in [0, 1)), fill -> images.
# The numbers are on the CPU and in float64, and whole numbers and choices are made there, so that
# no device and no dtype rounds to another one.

Numbers = tuple[Tensor, ...]


def _between(number: Tensor, low: float, high: float, images: Tensor) -> Tensor:
    """Map from [0, 1) to [low, high), ``(N,)`` on the device of the images."""
    return (low + (high - low) * number).to(images.device, images.dtype)


def _whole(number: Tensor, count: int, images: Tensor) -> Tensor:
    """Map from [0, 1) to 0, ..., count - 1, ``(N, 1)`` on the device of the images."""
    return (number * count).floor().long().view(-1, 1).to(images.device)


def _flip(images: Tensor, numbers: Numbers, fill: Tensor) -> Tensor:
    flipped = (numbers[0] < FLIP_PROBABILITY).view(-1, 1, 1, 1).to(images.device)
    return torch.where(flipped, images.flip(3), images)


def _sources(images: Tensor, numbers: Numbers) -> tuple[Tensor, Tensor]:
    """Return the row and column that each moved row ``(N, H)`` and column ``(N, W)`` comes from."""
    sources = []
    for number, length in zip(numbers, images.shape[2:], strict=False):
        most = int(length * LARGEST_SHIFT + 0.5)
        moved = _whole(number, 2 * most + 1, images) - most
        sources.append(torch.arange(length, device=images.device) - moved)
    return sources[0], sources[1]


def _take(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    _, channels, height, width = images.shape
    images = images.gather(2, rows[:, None, :, None].expand(-1, channels, -1, width))
    return images.gather(3, columns[:, None, None, :].expand(-1, channels, height, -1))


def _crop(images: Tensor, numbers: Numbers, fill: Tensor) -> Tensor:
    rows, columns = _sources(images, numbers)
    height, width = images.shape[2:]
    inside = ((rows >= 0) & (rows < height))[:, None, :, None]
    inside = inside & ((columns >= 0) & (columns < width))[:, None, None, :]
    moved = _take(images, rows.clamp(0, height - 1), columns.clamp(0, width - 1))
    return torch.where(inside, moved, fill)


def _mirrored(index: Tensor, length: int) -> Tensor:
    """Mirror the indices beyond the ends, without repeating the last one."""
    index = index.abs()
    return torch.where(index >= length, 2 * (length - 1) - index, index)


def _shift(images: Tensor, numbers: Numbers, fill: Tensor) -> Tensor:
    rows, columns = _sources(images, numbers)
    return _take(images, _mirrored(rows, images.shape[2]), _mirrored(columns, images.shape[3]))


def _cutout(images: Tensor, numbers: Numbers, fill: Tensor) -> Tensor:
    hidden = []
    for number, length in zip(numbers, images.shape[2:], strict=False):
        size = int(length * CUTOUT_SIZE + 0.5)
        first = _whole(number, length + 1 - size % 2, images) - size // 2
        places = torch.arange(length, device=images.device)
        hidden.append((places >= first) & (places < first + size))
    return torch.where(hidden[0][:, None, :, None] & hidden[1][:, None, None, :], fill, images)


def _color(images: Tensor, numbers: Numbers, fill: Tensor) -> Tensor:
    ranges = ((-BRIGHTNESS, BRIGHTNESS), (0.0, LARGEST_SATURATION), CONTRAST)
    brightness, saturation, contrast = (
        _between(number, low, high, images).view(-1, 1, 1, 1)
        for number, (low, high) in zip(numbers, ranges, strict=False)
    )
    images = images + brightness
    gray = images.mean(1, keepdim=True)
    images = gray + (images - gray) * saturation
    level = images.mean((1, 2, 3), keepdim=True)
    return level + (images - level) * contrast


def _scale(images: Tensor, numbers: Numbers, fill: Tensor) -> Tensor:
    vertical, horizontal = (
        _between(number, 1 / LARGEST_SCALE, LARGEST_SCALE, images) for number in numbers[:2]
    )
    return resample(images, AffineMap(xx=horizontal, yy=vertical), fill)


def _rotate(images: Tensor, numbers: Numbers, fill: Tensor) -> Tensor:
    most = math.radians(LARGEST_ANGLE)
    angle = _between(numbers[0], -most, most, images)
    # In pixels, so that an image that is not square is turned and not sheared.
    ratio = images.shape[2] / images.shape[3]
    turn = AffineMap(
        xx=angle.cos(), xy=-angle.sin() * ratio, yx=angle.sin() / ratio, yy=angle.cos()
    )
    return resample(images, turn, fill)


def _resizedcrop(images: Tensor, numbers: Numbers, fill: Tensor) -> Tensor:
    height, width = images.shape[2:]
    # Everything about the place in float64, so that devices agree on it.
    area = CROP_AREA[0] + (CROP_AREA[1] - CROP_AREA[0]) * numbers[0]
    low, high = (math.log(ratio) for ratio in CROP_RATIO)
    ratio = (low + (high - low) * numbers[1]).exp()
    half_width = (area * ratio).sqrt().clamp(max=1)
    half_height = (area / ratio).sqrt().clamp(max=1)
    x = (1 - half_width) * (2 * numbers[2] - 1)
    y = (1 - half_height) * (2 * numbers[3] - 1)
    half_width, half_height, x, y = (
        number.to(images.device, images.dtype) for number in (half_width, half_height, x, y)
    )
    part = AffineMap(xx=half_width, yy=half_height, x=x, y=y)
    # Between the outermost pixels and the border of the image there is nothing but the former.
    most = torch.tensor([1 - 1 / width, 1 - 1 / height], dtype=images.dtype, device=images.device)
    return resample(images, part, fill, most=most)


def _noise(images: Tensor, numbers: Numbers, fill: Tensor) -> Tensor:
    # Drawn on the CPU in float32 whatever the images are, once for all images of a group.
    seeds, places = numbers[1].unique(return_inverse=True)
    fields = [
        torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(int(seed * 2**53)))
        for seed in seeds
    ]
    noise = torch.stack(fields).clamp_(-NOISE_CUT, NOISE_CUT)[places]
    strength = _between(numbers[0], 0.0, LARGEST_NOISE, images).view(-1, 1, 1, 1)
    return images + strength * noise.to(images.device, images.dtype)


_TRANSFORMATIONS: dict[str, Callable[[Tensor, Numbers, Tensor], Tensor]] = {
    "color": _color,
    "crop": _crop,
    "cutout": _cutout,
    "flip": _flip,
    "noise": _noise,
    "resizedcrop": _resizedcrop,
    "rotate": _rotate,
    "scale": _scale,
    "shift": _shift,
}
