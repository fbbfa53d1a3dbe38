"""Fingerprints of weights: which ones a set was made with."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

__all__ = ["fingerprint"]


def fingerprint(module: nn.Module) -> str:
    """Return the SHA-256 of a module's state: names, shapes, dtypes and bytes, in order of name.

    Args:
        module: Any module. What its `state_dict` holds is counted, on whatever device it is.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if not isinstance(tensor, torch.Tensor):
            continue  # the extra state of a module is its own affair
        digest.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}|".encode())
        values = tensor.detach().cpu().contiguous()
        digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
