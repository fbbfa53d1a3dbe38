"""A distilled set as files: what is written, and how it is read back.

After `data`; the trainer writes through it, and so will everything that loads or publishes.
"""

from dd_plugin.hub.folder import write_set

__all__ = ["write_set"]
