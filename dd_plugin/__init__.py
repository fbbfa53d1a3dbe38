"""The public names of dd_plugin, and the version.

Everything a user imports comes from here; the parts behind it (see CONTRIBUTING.md for their order)
are where the names live. A name is imported when it is first used, so that `import dd_plugin`, and
with it `dd-plugin --help`, does not pay for torch.
"""

from typing import TYPE_CHECKING

from dd_plugin.lazy import on_first_use

if TYPE_CHECKING:
    from dd_plugin.bn import NoBatchNormFoundError as NoBatchNormFoundError
    from dd_plugin.bn import convert_bn as convert_bn
    from dd_plugin.bn import revert_bn as revert_bn
    from dd_plugin.distiller import Distiller as Distiller
    from dd_plugin.distiller import DistillerConfig as DistillerConfig
    from dd_plugin.hub import DistilledDataset as DistilledDataset
    from dd_plugin.memory import keep_freed_memory as keep_freed_memory

__version__ = "0.2.0"

# Public name -> the part that holds it.
_HOMES = {
    "DistilledDataset": "dd_plugin.hub",
    "Distiller": "dd_plugin.distiller",
    "DistillerConfig": "dd_plugin.distiller",
    "NoBatchNormFoundError": "dd_plugin.bn",
    "convert_bn": "dd_plugin.bn",
    "keep_freed_memory": "dd_plugin.memory",
    "revert_bn": "dd_plugin.bn",
}

__all__ = [
    "DistilledDataset",
    "Distiller",
    "DistillerConfig",
    "NoBatchNormFoundError",
    "__version__",
    "convert_bn",
    "keep_freed_memory",
    "revert_bn",
]

__getattr__, __dir__ = on_first_use(__name__, _HOMES)
