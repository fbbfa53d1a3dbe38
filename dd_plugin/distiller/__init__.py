"""The trainer: `DistillerConfig` for the settings, `Distiller` for the run, callbacks for the rest.

Read in this order: `config`, `networks`, `parts`, `run`, `outer_step`, `distiller`; beside the loop
stand `callbacks`, `evaluating`, `checkpoint` and `report`.
"""

from dd_plugin.distiller.agreement import ProcessesDifferError
from dd_plugin.distiller.callbacks import DistillerCallback, DistillerControl, DistillerState
from dd_plugin.distiller.config import DistillerConfig
from dd_plugin.distiller.distiller import Distiller
from dd_plugin.distiller.folder_lock import FolderInUseError
from dd_plugin.distiller.networks import Networks
from dd_plugin.distiller.run_folder import FolderTakenError, SaveError
from dd_plugin.distiller.setting_checks import NoEffectWarning
from dd_plugin.distiller.skipped_steps import NonFiniteError

__all__ = [
    "Distiller",
    "DistillerCallback",
    "DistillerConfig",
    "DistillerControl",
    "DistillerState",
    "FolderInUseError",
    "FolderTakenError",
    "Networks",
    "NoEffectWarning",
    "NonFiniteError",
    "ProcessesDifferError",
    "SaveError",
]
