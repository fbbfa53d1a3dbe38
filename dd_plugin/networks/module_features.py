"""The features of any module: which network gives them, at which size, normalized how.

A module is run on two small random images, at the sizes that it names and then at common ones. What
its own head takes is found by `classifier`, with what `timm_backbone` and `hub_backbone` know of
these libraries.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dd_plugin.data import Normalization
from dd_plugin.networks.classifier import layer_features, remove_classifier
from dd_plugin.networks.errors import BackboneError, BackboneWarning
from dd_plugin.networks.feature_networks import FeatureNetwork
from dd_plugin.networks.hub_backbone import (
    PooledOutput,
    hub_features,
    hub_sizes,
    is_hub_model,
    norms_of_head,
    timm_wrapper_normalization,
    tower_of,
)
from dd_plugin.networks.timm_backbone import (
    is_timm_model,
    set_timm_size,
    timm_features,
    timm_sizes,
)
from dd_plugin.text import described

__all__ = ["check_loaded", "feature_network", "normalization_of"]

# Sizes to try for a module that names none.
_COMMON_SIZES = [(224, 224), (256, 256), (64, 64), (32, 32), (28, 28)]


def check_loaded(
    name: str | None, network: FeatureNetwork, module: nn.Module, missing: Sequence[str]
) -> None:
    """Refuse a model some of whose weights were in no file, save those of its classifier."""
    used = {id(tensor) for tensor in [*network.parameters(), *network.buffers()]}
    tensors = dict([*module.named_parameters(), *module.named_buffers()])
    constant = norms_of_head(module)
    lost = [
        path
        for path in missing
        if path in tensors and path not in constant and id(tensors[path]) in used
    ]
    if lost:
        raise BackboneError(
            f"the files of {name!r} must hold all weights of its {type(module).__name__}, and "
            f"{len(lost)} are missing (the first is {lost[0]!r}); give a complete checkpoint"
        )


def feature_network(
    module: nn.Module, asked: tuple[int, int] | None, feature_layer: str | None
) -> tuple[FeatureNetwork, tuple[int, int]]:
    """Return the module as a network of features, and the size of its input."""
    if next(module.parameters(), None) is None:
        raise BackboneError(f"the {type(module).__name__} must have parameters, and has none")
    tower: nn.Module = tower_of(module) if is_hub_model(module) else module
    sizes = [asked] if asked else list(dict.fromkeys([*_own_sizes(module), *_COMMON_SIZES]))
    if asked and is_timm_model(module):
        set_timm_size(module, asked)
    size, example = _first_size(module, tower, sizes, asked is not None)
    if feature_layer is not None:
        network = layer_features(_part(tower), feature_layer, example)
    elif is_hub_model(module):
        network = hub_features(module, tower, example)
    elif is_timm_model(module):
        network = timm_features(module, example)
    else:
        network = remove_classifier(module, example)
    with torch.no_grad():
        features = network(example)
        again = network(example)
    if not torch.equal(features, again) and torch.isfinite(features).all():
        raise BackboneError(
            f"the {type(module).__name__} must give the same features twice, and does not in eval "
            "mode (it draws random numbers); give a model that is deterministic"
        )
    if features.ndim != 2 or not torch.isfinite(features).all():
        raise BackboneError(
            f"the features of the {type(module).__name__} must be finite vectors, got "
            + (
                f"shape {tuple(features.shape)}"
                if features.ndim != 2
                else "infinite or undefined values; check its weights"
            )
        )
    return network, size


def _part(tower: nn.Module) -> nn.Module:
    return tower.model if isinstance(tower, PooledOutput) else tower


def _own_sizes(module: nn.Module) -> list[tuple[int, int]]:
    if is_hub_model(module):
        return hub_sizes(module)
    return timm_sizes(module)


def _first_size(
    module: nn.Module, tower: nn.Module, sizes: Sequence[tuple[int, int]], asked: bool
) -> tuple[tuple[int, int], Tensor]:
    """Return the first size that a model takes, and an example of its input."""
    problem: Exception | None = None
    reference = next(module.parameters())
    generator = torch.Generator().manual_seed(0)
    for size in sizes:
        example = torch.randn(2, 3, *size, generator=generator).to(reference)
        try:
            with torch.no_grad():
                tower(example)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - each network refuses a size in its own way
            problem = problem or error
        else:
            return size, example
    height, width = sizes[0]
    if isinstance(problem, TypeError):
        raise BackboneError(
            f"the {type(module).__name__} must take one batch of images and nothing else "
            f"({described(problem)}); give a module that does"
        ) from problem
    assert problem is not None
    raise BackboneError(
        f"the {type(module).__name__} does not take color images of `image_size` {height}x{width} "
        f"({described(problem)}); "
        + (
            "leave `image_size` out, or give a multiple of its patch that is large enough"
            if asked
            else "give `image_size`, the size that it was made for"
        )
    ) from problem


def normalization_of(module: nn.Module, name: str | None) -> Normalization:
    """Return the normalization of a model's input; assume one, with a warning, if it names none."""
    normalization = timm_wrapper_normalization(module) or Normalization.from_model(
        module, channels=3, fetch=True
    )
    if normalization is not None:
        return normalization
    subject = f"model {name!r}" if name else type(module).__name__
    remedy = (
        "save its image processor (preprocessor_config.json) beside its weights"
        if name
        else "pass `load_backbone(module, normalization=Normalization(mean, std))` in its place"
    )
    warnings.warn(
        f"the {subject} does not say how its input is normalized; mean 0.5 and standard deviation "
        f"0.5 are assumed. If it was trained with others, {remedy}. A run of `Distiller` may also "
        "have `normalization=none`, for pixels from 0 to 1, or `normalization=data`, for the mean "
        "and deviation of its training images",
        BackboneWarning,
        stacklevel=3,
    )
    return Normalization([0.5] * 3, [0.5] * 3)
