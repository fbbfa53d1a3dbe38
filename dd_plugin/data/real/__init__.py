"""Real images: found, read, decoded, and drawn by seed.

Beside the synthetic set. `loading` has the entry point, `sources` and the modules for folders and
columns what it reads from, `rows` and `streams` what is drawn from, `dataset` what users hold.
"""

from dd_plugin.data.real.dataset import RealData

__all__ = ["RealData"]
