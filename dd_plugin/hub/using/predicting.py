"""Single images for a network that was trained on a distilled set, and its probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dd_plugin.bilevel import logits_of
from dd_plugin.data.real.pixels import read_pixels
from dd_plugin.data.recipe import Recipe


def pixels_of(images: Sequence[Any], recipe: Recipe) -> Tensor:
    """Return images in the size of a set ``(N, C, H, W)``, in [0, 1], on the CPU.

    Args:
        images: whatever `read_pixels` takes, at least one.
        recipe: of the set.

    Raises:
        DataError: something is no image.
        ValueError: there are none.
    """
    if not images:
        raise ValueError("`images` must hold at least one image, got none")
    channels, height, width = recipe.shape
    pixels = [
        torch.from_numpy(read_pixels(one, row, size=(height, width), channels=channels))
        for row, one in enumerate(images)
    ]
    return torch.stack(pixels).permute(0, 3, 1, 2) / 255


@torch.no_grad()
def probabilities_of(
    model: nn.Module, images: Tensor, recipe: Recipe, network_input: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return the probabilities ``(N, classes)`` of images, on the CPU.

    Args:
        model: a trained network; it is put into eval mode.
        images: what `pixels_of` gave.
        recipe: of the set that it was trained on.
        network_input: from pixels in [0, 1], where the network is and as it is.

    Raises:
        ValueError: the network was not trained on this set.
    """
    like = next(model.parameters())
    model.eval()
    logits = logits_of(model(network_input(images.to(like.device, like.dtype)))).float()
    if logits.dim() != 2 or logits.shape[1] != recipe.num_classes:
        raise ValueError(
            f"`model` must be what `fit` gave, with {recipe.num_classes} outputs for an "
            f"image, got one with {logits.shape[-1]}; train it with `fit` first"
        )
    return logits.softmax(1).cpu()


def by_name(
    probabilities: Tensor, class_names: Sequence[str], top: int | None
) -> list[dict[str, float]]:
    """Return for each image the probabilities by class name, the most probable ones first."""
    return [
        {class_names[i]: float(row[i]) for i in row.argsort(descending=True)[:top].tolist()}
        for row in probabilities
    ]
