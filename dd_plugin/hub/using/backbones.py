"""The frozen networks of a set for heads, loaded as its record has them.

After `choosing`. A backbone of the record is known by its name, or by the fingerprint of its
weights where it has none.
"""

from __future__ import annotations

import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dd_plugin.data import Normalization
from dd_plugin.data.network_records import BackboneRecord
from dd_plugin.hub.reading import StoredSet
from dd_plugin.hub.using.choosing import name_of
from dd_plugin.networks.backbones import (
    Backbone,
    BackboneError,
    check_recorded_backbone,
    load_backbone,
)
from dd_plugin.networks.fresh import ModelInit
from dd_plugin.networks.lite_weights import LITE_PREFIX
from dd_plugin.networks.names import factory_from


class OtherWeightsWarning(UserWarning):
    """A backbone has other weights than when the set was distilled, under the same name."""


def backbone_of(stored: StoredSet, model: ModelInit | None, device: torch.device | str) -> Backbone:
    """Return a backbone of a set, or another one; see `DistilledDataset.backbone`."""
    recipe = stored.record.recipe
    if recipe.trainable != "head":
        raise ValueError("this set trains whole networks, not the head of one; use `fit`")
    name = name_of(recipe, model)
    if model is None and name is None:
        raise ValueError(
            "`model` must be given: this set was distilled for a network of its author's own, "
            "which has no name; pass that network, or the name of any other"
        )
    recorded = {recipe.model, *(b.model for b in recipe.backbones)}
    # The full path of a folder is what the caller has typed.
    if name in recorded and name and (model is None or not Path(name).is_absolute()):
        _check_recorded(stored, name)
    wanted = name if name is not None else model
    if callable(wanted) and not isinstance(wanted, nn.Module):
        wanted = wanted()
    if not isinstance(wanted, (str, nn.Module)):
        raise ValueError(
            "`model` must be a name, a network or a function that makes one, got "
            f"{type(wanted).__name__}; of several networks pass one at a time"
        )
    backbone, entry = loaded(stored, wanted, device)
    if entry is not None and entry.fingerprint != backbone.fingerprint:
        warnings.warn(
            f"the weights of {name!r} are others than those that this set was distilled with "
            f"(fingerprint {backbone.fingerprint[:12]}, then {entry.fingerprint[:12]}), so the "
            "accuracy on the card is not theirs",
            OtherWeightsWarning,
            stacklevel=3,
        )
    return backbone


def _check_recorded(stored: StoredSet, name: str) -> None:
    """Check that a backbone named by the record is no file here and not too large."""
    check_recorded_backbone(name)
    if not name.startswith(LITE_PREFIX):
        factory_from(name, {}, from_record=True, max_parameters=stored.limits.max_parameters)


def loaded(
    stored: StoredSet, model: str | nn.Module, device: torch.device | str
) -> tuple[Backbone, BackboneRecord | None]:
    """Return a backbone as the record has it, and the entry of its name in the record.

    Networks without a name are known by their weights.
    """
    recipe = stored.record.recipe
    options: dict[str, Any] = {"device": device, "dtype": stored.synthetic.images().dtype}

    def load(entry: BackboneRecord, revision: str | None = None) -> Backbone:
        return load_backbone(
            model,
            feature_layer=entry.feature_layer,
            revision=revision,
            normalization=Normalization(entry.mean, entry.std),
            **options,
        )

    for entry in recipe.backbones:
        if isinstance(model, str) and entry.model == model:
            return load(entry, entry.revision), entry
    nameless = [b for b in recipe.backbones if b.model is None]
    known = nameless if isinstance(model, str) else list(recipe.backbones)
    if known:
        with suppress(BackboneError):  # without the layer it is another network
            backbone = load(known[0])
            for entry in known:
                if entry.fingerprint == backbone.fingerprint:
                    backbone.normalization = Normalization(entry.mean, entry.std)
                    return backbone, None
    if isinstance(model, str) or not nameless:
        return load_backbone(model, **options), None
    # Perhaps the author's network with other weights: it may not say what it takes.
    scale = Normalization.from_model(model, channels=3, fetch=True)
    options |= {"normalization": scale or Normalization(nameless[0].mean, nameless[0].std)}
    layer = nameless[0].feature_layer
    if layer and layer in dict(model.named_modules()):
        with suppress(BackboneError):  # another network, with a layer of the same name
            return load_backbone(model, feature_layer=layer, **options), None
    return load_backbone(model, **options), None
