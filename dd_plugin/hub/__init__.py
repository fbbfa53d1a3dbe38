"""A distilled set as files: what is written, and how it is read back.

After `data` and `evaluation`; the trainer writes through it, and everything that loads or publishes
a distilled set is here. A name is imported when it is first used: the client of the Hub is for sets
that come from there or go there.
"""

from typing import TYPE_CHECKING

from dd_plugin.lazy import on_first_use

if TYPE_CHECKING:
    from dd_plugin.hub.dataset import DistilledDataset
    from dd_plugin.hub.folder import write_set
    from dd_plugin.hub.limits import DistilledFormatError
    from dd_plugin.hub.merging import MergeError
    from dd_plugin.hub.remote.download import DownloadError, StaleSetWarning
    from dd_plugin.hub.remote.failures import PushError
    from dd_plugin.hub.remote.push import PushResult, push_folder
    from dd_plugin.hub.remote.target import check_target
    from dd_plugin.hub.using.backbones import OtherWeightsWarning

# Public name -> the module that holds it.
_HOMES = {
    "DistilledDataset": "dd_plugin.hub.dataset",
    "DistilledFormatError": "dd_plugin.hub.limits",
    "DownloadError": "dd_plugin.hub.remote.download",
    "MergeError": "dd_plugin.hub.merging",
    "OtherWeightsWarning": "dd_plugin.hub.using.backbones",
    "PushError": "dd_plugin.hub.remote.failures",
    "PushResult": "dd_plugin.hub.remote.push",
    "StaleSetWarning": "dd_plugin.hub.remote.download",
    "check_target": "dd_plugin.hub.remote.target",
    "push_folder": "dd_plugin.hub.remote.push",
    "write_set": "dd_plugin.hub.folder",
}

__all__ = [
    "DistilledDataset",
    "DistilledFormatError",
    "DownloadError",
    "MergeError",
    "OtherWeightsWarning",
    "PushError",
    "PushResult",
    "StaleSetWarning",
    "check_target",
    "push_folder",
    "write_set",
]

__getattr__, __dir__ = on_first_use(__name__, _HOMES)
