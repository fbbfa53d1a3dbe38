"""A setting as the field of a dataclass: default and help text.

Used by `setting_groups` and `computing_groups`.
"""

from __future__ import annotations

from copy import copy
from dataclasses import field
from typing import Any

from dd_plugin.distiller.by_data import marked

# Ends the help of what `defaults` lowers.
LOWERED = "Left out, it is lowered for large images and networks."


def option(default: Any, text: str, **more: Any) -> Any:
    """Return a field with a default, copied if it may be changed, and the help text."""
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: copy(default), metadata={"help": text}, **more)
    return field(default=default, metadata={"help": text}, **more)


def option_by_data(default: Any, text: str) -> Any:
    """Return a field that `defaults` chooses by the data where it is left out."""
    return option(marked(default), text)
