"""Normalizations under autocast, in float32 on every device.

Beside `formulas`. On a GPU autocast has them compute in float32. On a CPU torch (2.11 to 2.15) lets
them take activations in half precision beside weights in single precision, and then their
derivatives have another dtype than their values: the next convolution refuses to differentiate.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_HALF = (torch.bfloat16, torch.float16)
# `instance_norm` is replaced in `batchnorm`.
_NAMES = ("group_norm", "layer_norm", "rms_norm")


def as_float32(input: Tensor) -> Tensor:
    """Return activations in half precision as float32 under autocast, and others as they are."""
    if input.dtype in _HALF and torch.is_autocast_enabled(input.device.type):
        return input.float()
    return input


def _in_float32(native: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a normalization that takes activations in half precision as float32 under autocast."""

    @functools.wraps(native)
    def normalize(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return native(as_float32(input), *args, **kwargs)

    return normalize


# Name in `torch.nn.functional` -> the function that stands for it.
NORMALIZATIONS = {name: _in_float32(getattr(F, name)) for name in _NAMES}
