"""Fingerprints of weights: which ones a set was made with, and whether others are here now."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from dd_plugin.networks.backbones import Backbone

__all__ = ["check_same_weights", "fingerprint"]


def fingerprint(module: nn.Module) -> str:
    """Return the SHA-256 of a module's state: names, shapes, dtypes and bytes, in order of name.

    Args:
        module: any module; what its `state_dict` holds is counted, on whatever device it is.

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


def check_same_weights(recorded_fingerprint: str | None, backbone: Backbone) -> str | None:
    """Return a sentence if other weights are behind a backbone's name than were recorded.

    Args:
        recorded_fingerprint: `Backbone.fingerprint` when the set was made; None if none was kept.
        backbone: the one in use now.

    Returns:
        None if the weights are the same or nothing was recorded, else the text of a warning or an
        error.
    """
    if recorded_fingerprint is None or recorded_fingerprint == backbone.fingerprint:
        return None
    name = repr(backbone.name) if backbone.name else "the given module"
    revision = f" at revision {backbone.revision}" if backbone.revision else ""
    return (
        f"the weights of {name}{revision} differ from those that the set was made with: "
        f"fingerprint {backbone.fingerprint[:12]}, recorded {recorded_fingerprint[:12]}; "
        "load the recorded revision, image size and weights, or expect another accuracy"
    )
