"""The trainer: `DistillerConfig` for the settings, `Distiller` for the run, callbacks for the rest.

Read in this order: `config`, `networks`, `setup`, `distiller`, `callbacks`, `checkpoint`, `report`.
"""

from dd_plugin.distiller.callbacks import DistillerCallback, DistillerControl, DistillerState
from dd_plugin.distiller.config import DistillerConfig, NoEffectWarning
from dd_plugin.distiller.distiller import Distiller, NonFiniteError
from dd_plugin.distiller.networks import Networks

__all__ = [
    "Distiller",
    "DistillerCallback",
    "DistillerConfig",
    "DistillerControl",
    "DistillerState",
    "Networks",
    "NoEffectWarning",
    "NonFiniteError",
]
