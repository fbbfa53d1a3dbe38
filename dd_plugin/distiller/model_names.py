"""Names of networks: as settings, and the warning where there is no public one.

Used by `distiller`, before the networks are made and after it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from dd_plugin.data.recipe import Recipe
from dd_plugin.distiller.config import DistillerConfig
from dd_plugin.distiller.unknown_names import check_config
from dd_plugin.networks.fresh import ModelInit

logger = logging.getLogger(__name__)


def names_as_settings(
    config: DistillerConfig | None, model_init: ModelInit | Sequence[ModelInit] | None
) -> tuple[DistillerConfig, ModelInit | Sequence[ModelInit] | None]:
    """Move names of networks into the settings; leave modules and functions as they are.

    Args:
        config: the settings; by default those of a run that names none.
        model_init: see `dd_plugin.distiller.Distiller`.

    Raises:
        TypeError: something else was given for the settings.
    """
    check_config(config, model_init)
    config = DistillerConfig() if config is None else config
    names = [model_init] if isinstance(model_init, str) else model_init
    if isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names):
        return config.with_model(*names), None
    return config, model_init


def warn_of_nameless(recipe: Recipe) -> None:
    """Warn of networks that the recipe cannot name."""
    networks = recipe.backbones if recipe.trainable == "head" else recipe.architectures
    if any(network.model is None for network in networks):
        logger.warning(
            "a network is in a file or folder of this machine, so the recipe does not name "
            "it. Whoever trains on the distilled set needs that network. Give the id of a "
            "model on the Hub, or timm/NAME, to have it in the recipe"
        )
