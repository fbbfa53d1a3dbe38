"""The network that is trained on a distilled set, and whether the recipe is for it.

First of `using`. A network is meant by its name, a function or a module; those that the set was
distilled for have a place in ``recipe.architectures``.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from dd_plugin.data.recipe import Recipe
from dd_plugin.hub.reading import StoredSet
from dd_plugin.networks.fresh import ModelInit, fresh_network

Protocol = Literal["auto", "recipe", "standard"]
TrainedBy = Literal["recipe", "standard"]


def name_of(recipe: Recipe, model: ModelInit | None) -> str | None:
    """Return the name of a network, by default that of the set's own; None if it has none."""
    if model is None:
        return recipe.model
    return model if isinstance(model, str) else None


def protocol_for(recipe: Recipe, protocol: Protocol, model: ModelInit | None) -> TrainedBy:
    """Return the protocol by which a network is trained.

    Raises:
        ValueError: there is no such protocol.
    """
    if protocol not in ("auto", "recipe", "standard"):
        raise ValueError(f'`protocol` must be "auto", "recipe" or "standard", got {protocol!r}')
    if protocol != "auto":
        return protocol
    if recipe.trainable == "head":
        return "recipe"
    name = name_of(recipe, model)
    return "standard" if name is not None and place_of_name(recipe, name) is None else "recipe"


def place_of_name(recipe: Recipe, name: str | None) -> int | None:
    """Return the place of a name among the networks of a set; None where it is none of them.

    Of two with the same name and different arguments it is the first, unless the name has the
    number that tables put behind it.
    """
    names = [one.model for one in recipe.architectures]
    places = {
        label: place
        for place, label in enumerate(recipe.network_labels)
        if names[place] is not None
    }
    places |= {one: names.index(one) for one in names if one is not None}
    return None if name is None else places.get(name)


def place_of_network(stored: StoredSet, model: ModelInit | None, network: nn.Module) -> int | None:
    """Return the place of a network in a set; None where what was learned must tell it."""
    recipe = stored.record.recipe
    if model is None or len(recipe.architectures) == 1:
        return 0
    place = place_of_name(recipe, name_of(recipe, model))
    if place is not None or not stored.initial:
        return place
    shapes = {n: t.shape for n, t in network.state_dict().items()}
    for place in range(len(recipe.architectures)):
        start = recipe.of_network(place, stored.initial)
        if all(shapes.get(name) == t.shape for name, t in start.items()):
            return place
    return 0


def new_network(
    stored: StoredSet, model: ModelInit | None, *, seed: int, protocol: Protocol
) -> nn.Module:
    """Return the network that is trained on a set, before it is trained.

    Raises:
        ValueError: the set's own network has no name, or the set is for heads.
        ModelLoadError: no model of that name.
    """
    recipe = stored.record.recipe
    if recipe.trainable == "head":
        raise ValueError(
            "this set trains the head of a pretrained network, which is not made anew; use "
            "`backbone` for the frozen network, or `fit` for the network with its head"
        )
    if model is None and recipe.model is None:
        network = stored.record.about.network
        kind, size = network.class_name, network.parameters
        like = f" (its class {kind!r:.80}, trained parameters {size!r:.20})" if kind else ""
        raise ValueError(
            "`model` must be given: this set was distilled for a network of its author's own, "
            f"which has no name{like}; pass a function that makes such a network, or another "
            'network with protocol="standard"'
        )
    place = place_of_name(recipe, name_of(recipe, model))
    if place is None:
        assert model is not None
        return fresh_network(model, seed, recipe.num_classes, recipe.shape)
    architecture = recipe.architectures[place]
    assert architecture.model is not None
    arguments = dict(architecture.model_args)
    if stored.initial and protocol_for(recipe, protocol, model) == "recipe":
        arguments.pop("pretrained", None)
    return fresh_network(
        architecture.model,
        seed,
        recipe.num_classes,
        recipe.shape,
        model_args=arguments,
        from_record=True,
        max_parameters=stored.limits.max_parameters,
    )
