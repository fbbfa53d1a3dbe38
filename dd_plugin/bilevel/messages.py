"""What messages of the engine say of a value, and which line of the caller's a warning is about."""

from __future__ import annotations

import operator
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dd_plugin import private

# What stands between a call of the engine and the line that it is about.
INSIDE = (str(Path(__file__).parent), private.__file__, str(Path(torch.__file__).parent))


def describe(value: Any) -> str:
    """Return what a value is: its type, and of tensors shape and dtype."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and dtype {value.dtype}"
    if isinstance(value, (tuple, list)) and len(value) <= 3:
        return f"({', '.join(describe(v) for v in value)})"
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def integer(value: Any, what: str) -> int:
    """Return a value as an int.

    Raises:
        TypeError: it is no integer.
    """
    try:
        return operator.index(value)
    except TypeError as error:
        raise TypeError(f"`{what}` must be an integer, got {describe(value)}") from error


def level_of_caller() -> int:
    """Return the ``stacklevel`` with which a warning points at the call of the engine."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(INSIDE):
        level, frame = level + 1, frame.f_back
    return level
