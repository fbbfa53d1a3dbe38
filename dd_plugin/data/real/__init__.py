"""Real images: found, read, decoded, and drawn by seed.

Beside the synthetic set. `loading` is the entry, and `dataset` has `RealData`, which users hold.
Data sets are read by `class_folders`, `columns`, `classes` and `sources`; batches are drawn from
`rows` and `streams`.
"""

from dd_plugin.data.real.dataset import RealData

__all__ = ["RealData"]
