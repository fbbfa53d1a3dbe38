"""A distilled set as files: what is written, and how it is read back.

After `data` and `evaluation`; the trainer writes through it, and everything that loads or publishes
a distilled set is here.
"""

from dd_plugin.hub.dataset import DistilledDataset, OtherWeightsWarning
from dd_plugin.hub.folder import write_set
from dd_plugin.hub.limits import DistilledFormatError
from dd_plugin.hub.remote.download import DownloadError, StaleSetWarning
from dd_plugin.hub.remote.push import PushError, PushResult, check_target, push_folder

__all__ = [
    "DistilledDataset",
    "DistilledFormatError",
    "DownloadError",
    "OtherWeightsWarning",
    "PushError",
    "PushResult",
    "StaleSetWarning",
    "check_target",
    "push_folder",
    "write_set",
]
