"""All settings of a run in one dataclass, and what follows from several of them.

Their fields are in `setting_groups` and `computing_groups`. `config.DistillerConfig` makes and
checks the values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dd_plugin.data.augmentation_names import augmentation_names
from dd_plugin.data.stored_sizes import PYRAMIDS, UPSAMPLED
from dd_plugin.distiller.by_data import is_left_alone
from dd_plugin.distiller.computing_groups import ComputingSettings, HubSettings
from dd_plugin.distiller.json_settings import model_arguments
from dd_plugin.distiller.setting_groups import (
    DEFAULT_ARGUMENTS,
    DEFAULT_MODEL,
    DataSettings,
    InnerSettings,
    NetworkSettings,
    OuterSettings,
    RunSettings,
    SyntheticSettings,
)

# Settings whose value is in no text, file or log.
SECRETS = frozenset({"hub_token"})

# In the order of help, pages and files.
GROUPS: dict[str, type] = {
    "Run": RunSettings,
    "Real data": DataSettings,
    "Network": NetworkSettings,
    "Synthetic set": SyntheticSettings,
    "Inner training": InnerSettings,
    "Outer optimizer": OuterSettings,
    "Computing": ComputingSettings,
    "Hub": HubSettings,
}


# A dataclass has the fields of its last base first.
@dataclass
class Settings(
    HubSettings,
    ComputingSettings,
    OuterSettings,
    InnerSettings,
    SyntheticSettings,
    NetworkSettings,
    DataSettings,
    RunSettings,
):
    """All settings, and what follows from several of them."""

    @property
    def models(self) -> tuple[str, ...]:
        """The names of all networks."""
        return tuple(self.model)

    @property
    def has_default_model(self) -> bool:
        """Whether the network is the one of a configuration that names none."""
        return self.models == (DEFAULT_MODEL,)

    @property
    def has_default_arguments(self) -> bool:
        """Whether the arguments of the network are those of a configuration that names none."""
        is_default = is_left_alone(self.model_args) or self.model_args == DEFAULT_ARGUMENTS
        return self.has_default_model and is_default

    @property
    def networks(self) -> tuple[tuple[str, dict[str, Any]], ...]:
        """The name of each network, with its arguments."""
        arguments = model_arguments(self.model_args, len(self.models))
        listed = arguments if isinstance(arguments, list) else [arguments] * len(self.models)
        return tuple((name, dict(one)) for name, one in zip(self.models, listed, strict=True))

    @property
    def is_augmented(self) -> bool:
        """Whether real and synthetic images are augmented."""
        return bool(augmentation_names(self.augmentation))

    @property
    def learns_statistics(self) -> bool:
        """Whether BatchNorm statistics are learned, or corrections of tracked ones.

        Networks that are trained on the images alone have no corrections, and constant step sizes
        are for such networks.
        """
        if self.statistics in ("learned", "frozen"):
            return self.statistics == "learned"
        by_default = "none" if self.step_sizes == "constant" else "learned"
        return (self.statistics_corrections or by_default) == "learned"

    @property
    def trained_per_class(self) -> int:
        """Images of each class that networks are trained on: more than are stored if upsampled."""
        return self.images_per_class * (self.upsample_factor**2 if self.is_upsampled else 1)

    @property
    def is_upsampled(self) -> bool:
        """Whether images are stored smaller than networks see them."""
        return self.parametrization in UPSAMPLED

    @property
    def is_pyramid(self) -> bool:
        """Whether images are learned as a sum of levels."""
        return self.parametrization in PYRAMIDS
