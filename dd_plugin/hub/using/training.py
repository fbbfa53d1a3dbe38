"""Training on a distilled set, by its recipe or as on real images: whole networks, and heads.

After `choosing` and `backbones`, above `dd_plugin.evaluation`, which does the steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from dd_plugin.bilevel import cross_entropy
from dd_plugin.bilevel.problem import Loss
from dd_plugin.data.recipe import Recipe
from dd_plugin.data.synthetic import SyntheticSet
from dd_plugin.evaluation import probe_on, train_by_recipe, train_head
from dd_plugin.evaluation.training import train_as_usual
from dd_plugin.evaluation.training_images import PixelKind, with_pixels
from dd_plugin.hub.reading import StoredSet
from dd_plugin.hub.using.backbones import backbone_of
from dd_plugin.hub.using.choosing import Protocol, new_network, place_of_network, protocol_for
from dd_plugin.networks import Backbone
from dd_plugin.networks.fresh import ModelInit
from dd_plugin.networks.head_solvers import head_of
from dd_plugin.networks.heads import Head


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """The options of `DistilledDataset.fit`, apart from network and seed."""

    protocol: Protocol = "auto"
    pixels: PixelKind = "exact"
    device: torch.device | str = "cpu"
    loss: Loss | None = None

    def images_of(self, stored: StoredSet) -> SyntheticSet:
        """Return the set with these pixels, on the device."""
        return with_pixels(stored.synthetic, self.pixels).to(self.device)


def fit_network(
    stored: StoredSet, model: ModelInit | None, seed: int, options: FitOptions
) -> nn.Module:
    """Return a network that is trained on a set for whole networks."""
    recipe = stored.record.recipe
    chosen = protocol_for(recipe, options.protocol, model)
    network = new_network(stored, model, seed=seed, protocol=options.protocol)
    if chosen == "recipe":
        _check_loss(recipe, options.loss)
    synthetic = options.images_of(stored)
    if chosen == "standard":
        return train_as_usual(synthetic, network, seed)
    place = place_of_network(stored, model, network)
    initial = {} if place is None else recipe.of_network(place, stored.initial)
    return train_by_recipe(
        synthetic,
        network,
        seed,
        which=place,
        initial={n: t.to(options.device) for n, t in initial.items()},
        loss=options.loss or cross_entropy,
    )


def fit_head(
    stored: StoredSet, model: ModelInit | None, options: FitOptions
) -> tuple[nn.Module, Backbone]:
    """Return a pretrained model with a head that is trained on a set, and its backbone."""
    recipe = stored.record.recipe
    protocol = protocol_for(recipe, options.protocol, model)
    backbone = backbone_of(stored, model, options.device)
    synthetic = options.images_of(stored)
    if protocol == "standard":
        head = probe_on(backbone, synthetic)
    else:
        head = train_head(backbone, head_for(recipe, options.loss), synthetic)
    return backbone.with_head(head.weight, head.bias, list(recipe.class_names)), backbone


def head_for(recipe: Recipe, loss: Loss | None) -> Head:
    """Return the head that is trained by a recipe, and how it is trained.

    Raises:
        ValueError: the set was distilled with another loss than cross entropy, and it is missing.
    """
    if recipe.head == "unroll":
        _check_loss(recipe, loss)
    return head_of(recipe, loss or cross_entropy)


def _check_loss(recipe: Recipe, loss: Loss | None) -> None:
    if recipe.loss == "custom" and loss is None:
        raise ValueError(
            "`loss` must be given: this set was distilled with a loss of its author's own; "
            'pass that function, or use protocol="standard"'
        )
