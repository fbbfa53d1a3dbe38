"""The frozen networks of a run for heads, from names, functions or modules.

Used by `parts` before it reads any data, so that a wrong name or missing weights are told at once.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from dd_plugin.data import Normalization, RealData
from dd_plugin.distiller.config import DistillerConfig
from dd_plugin.networks import Backbone, load_backbone
from dd_plugin.networks.timm_models import TIMM_PREFIX
from dd_plugin.seeds import Purpose, mix, seeded_generators

logger = logging.getLogger(__name__)

_EXAMPLES = "timm/resnet18.a1_in1k, facebook/dinov2-small or lite/efficientnet_lite0"


def load_backbones(
    config: DistillerConfig, model_init: Any, device: torch.device, dtype: torch.dtype
) -> list[Backbone]:
    """Load the backbones of a run.

    Args:
        config: of the run; its names where ``model_init`` is None.
        model_init: a module, a function that makes one, a name, or several of them.
        device: where they run.
        dtype: of their weights.

    Raises:
        ValueError: one cannot be loaded, or cannot serve as a backbone.
    """
    models: Sequence[Any] = config.models
    pretrained = True
    if model_init is None:
        pretrained = _pretrained(config)
    else:
        models = model_init if isinstance(model_init, (list, tuple)) else [model_init]
    for model in models:
        if isinstance(model, str) and pretrained:
            _check_has_weights(model)
    backbones = []
    for index, model in enumerate(models):
        # Weights that are drawn follow from the seed of the run, in every process and when resumed.
        with seeded_generators(mix(config.seed, Purpose.BACKBONE_WEIGHTS, index)):
            backbones.append(
                load_backbone(
                    _name_or_module(model),
                    feature_layer=config.feature_layer,
                    pretrained=pretrained,
                    device=device,
                    dtype=dtype,
                    # That of the data is put in when they are read.
                    normalization=None if config.normalization == "auto" else _RAW,
                )
            )
    if not pretrained:
        logger.warning(
            "`model_args` has pretrained=false, so the frozen networks have random weights, drawn "
            "by `seed`. These are not in the distilled set, and nobody else has them"
        )
    return backbones


def normalize_as_data(backbones: Sequence[Backbone], train: RealData) -> None:
    """Normalize the input of backbones by the mean and deviation of real images."""
    for backbone in backbones:
        backbone.normalization = Normalization.from_data(train)


def has_random_weights(config: DistillerConfig, backbones: Sequence[Backbone]) -> bool:
    """Return whether the weights of the backbones were drawn for this run."""
    named = any(backbone.name is not None for backbone in backbones)
    return named and not config.has_default_model and not _pretrained(config)


# Pixels as they are.
_RAW = Normalization([0.0] * 3, [1.0] * 3)


def _name_or_module(model: Any) -> str | nn.Module:
    """A name or a module as it is; of a function that makes a module, the module."""
    is_function = callable(model) and not isinstance(model, nn.Module)
    network: str | nn.Module = model() if is_function else model
    return network


def _pretrained(config: DistillerConfig) -> bool:
    """Whether the weights of named networks are loaded, and not drawn."""
    arguments = config.model_args if isinstance(config.model_args, dict) else {}
    if config.has_default_model:
        return True
    if others := sorted(set(arguments) - {"pretrained"}):
        raise ValueError(
            '`model_args` must be left out with trainable="head", or be {"pretrained": false} for '
            f"random weights, got {', '.join(others)}; a pretrained network is taken as it is. In "
            "Python you can pass one that you have made yourself"
        )
    pretrained = arguments.get("pretrained", True)
    if not isinstance(pretrained, bool):
        raise ValueError(f"`pretrained` of `model_args` must be true or false, got {pretrained!r}")
    return pretrained


def _check_has_weights(name: str) -> None:
    """Refuse an architecture of timm without published weights."""
    if not name.startswith(TIMM_PREFIX):
        return
    import timm

    import dd_plugin.networks.convnet  # noqa: F401 - registers its networks with timm

    architecture = name.removeprefix(TIMM_PREFIX)
    if timm.is_model(architecture) and not timm.is_model_pretrained(architecture.partition(".")[0]):
        raise ValueError(
            f'`model` must be a pretrained network with trainable="head", got {name}, for which '
            f"there are no weights; give another, such as {_EXAMPLES}"
        )
