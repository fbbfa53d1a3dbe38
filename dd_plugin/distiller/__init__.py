"""The trainer: `DistillerConfig` for the settings, `Distiller` for the run, callbacks for the rest.

Read in this order: `config`, `networks`, `parts`, `run`, `outer_step`, `distiller`; beside the loop
stand `callbacks`, `evaluating`, `checkpoint` and `report`. A name is imported when it is first
used, so that settings can be read and checked without torch.
"""

from typing import TYPE_CHECKING

from dd_plugin.lazy import on_first_use

if TYPE_CHECKING:
    from dd_plugin.distiller.agreement import ProcessesDifferError
    from dd_plugin.distiller.callbacks import DistillerCallback, DistillerControl, DistillerState
    from dd_plugin.distiller.config import DistillerConfig
    from dd_plugin.distiller.distiller import Distiller
    from dd_plugin.distiller.folder_lock import FolderInUseError
    from dd_plugin.distiller.networks import Networks
    from dd_plugin.distiller.run_folder import FolderTakenError, SaveError
    from dd_plugin.distiller.setting_checks import NoEffectWarning
    from dd_plugin.distiller.skipped_steps import NonFiniteError

# Public name -> the module that holds it.
_HOMES = {
    "Distiller": "dd_plugin.distiller.distiller",
    "DistillerCallback": "dd_plugin.distiller.callbacks",
    "DistillerConfig": "dd_plugin.distiller.config",
    "DistillerControl": "dd_plugin.distiller.callbacks",
    "DistillerState": "dd_plugin.distiller.callbacks",
    "FolderInUseError": "dd_plugin.distiller.folder_lock",
    "FolderTakenError": "dd_plugin.distiller.run_folder",
    "Networks": "dd_plugin.distiller.networks",
    "NoEffectWarning": "dd_plugin.distiller.setting_checks",
    "NonFiniteError": "dd_plugin.distiller.skipped_steps",
    "ProcessesDifferError": "dd_plugin.distiller.agreement",
    "SaveError": "dd_plugin.distiller.run_folder",
}

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

__getattr__, __dir__ = on_first_use(__name__, _HOMES)
