"""How a published recipe names the networks of a run: by names that others can use.

Used by `network_parts` and `head_parts` for the recipe. The path of something on this machine is no
name for others, and may say more than its owner wants to tell, so it is left out.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import nn

from dd_plugin.data import BackboneRecord, NetworkRecord
from dd_plugin.distiller.configured_networks import configured_record
from dd_plugin.hub_access import local_path
from dd_plugin.networks import Backbone
from dd_plugin.networks.fresh import ModelInit


def network_record(model: ModelInit, arguments: dict[str, Any]) -> NetworkRecord:
    """Return what a recipe says of a network that is trained from scratch.

    A model of transformers without a public name, an object or in a folder, is told by its
    configuration. Otherwise there is nothing, unless both name and arguments are of use to others.
    """
    if isinstance(model, nn.Module) or (isinstance(model, str) and local_path(model) is not None):
        record = configured_record(model, arguments)
        return NetworkRecord(None) if record is None or is_path(record.model_args) else record
    if not isinstance(model, str) or is_path(model, bare=True) or is_path(arguments):
        return NetworkRecord(None)
    return NetworkRecord(model, arguments)


def backbone_record(backbone: Backbone) -> BackboneRecord:
    """Return what a recipe says of a frozen network."""
    return BackboneRecord(
        model=public_name(backbone),
        fingerprint=backbone.fingerprint,
        revision=backbone.revision,
        size=backbone.size,
        num_features=backbone.num_features,
        mean=tuple(backbone.normalization.mean),
        std=tuple(backbone.normalization.std),
        feature_layer=backbone.feature_layer,
    )


def public_name(backbone: Backbone) -> str | None:
    """Return the name of a frozen network, or None if it has none that others can use."""
    return None if backbone.name is None or is_path(backbone.name, bare=True) else backbone.name


def is_path(value: Any, *, bare: bool = False) -> bool:
    """Return whether a value is, or holds, the path of something on this machine.

    A ``bare`` word counts as well, if there is a file or folder of that name.
    """
    if isinstance(value, dict):
        return any(map(is_path, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(is_path, value))
    if isinstance(value, os.PathLike):
        return True
    if not isinstance(value, str) or not value:
        return False
    path = Path(value).expanduser()
    if path.is_absolute() or value.startswith((".", "~")):
        return True
    return (bare or path.name != value or bool(path.suffix)) and path.exists()
