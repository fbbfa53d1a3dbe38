"""Train a network on a distilled set so that an ordinary module comes out, and test it.

After `baselines` and `scores`, whose steps it takes: `train_by_recipe` follows the recipe to the
step, `train_as_usual` trains as on real images, for networks that the recipe was not made for.
The network has the stock layers of its library, with statistics and all that was learned about them
folded in.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Literal, cast

import torch
from torch import Tensor, nn

from dd_plugin.bilevel import (
    BilevelProblem,
    FunctionalModel,
    RunState,
    cross_entropy,
    initial_state,
)
from dd_plugin.bilevel.foreign_models.draws import Draws
from dd_plugin.bilevel.problem import Loss
from dd_plugin.bn import Statistics, TrainWith, convert_bn, revert_bn
from dd_plugin.bn.variants import BATCH_NORMS
from dd_plugin.data.recipe import Recipe
from dd_plugin.data.synthetic import SyntheticSet
from dd_plugin.evaluation.baselines import train_on_few
from dd_plugin.evaluation.preparation import preparation
from dd_plugin.evaluation.scores import train_on
from dd_plugin.networks.checks import check_takes, check_trained, infinite_in
from dd_plugin.networks.fresh import learnable_constants
from dd_plugin.seeds import Purpose, mix, seeded_generators, untouched_generators

Protocol = Literal["recipe", "standard"]


class OtherArchitectureWarning(UserWarning):
    """A network is trained by a recipe that was learned with another architecture."""


def train_by_recipe(
    synthetic: SyntheticSet,
    network: nn.Module,
    seed: int,
    *,
    which: int | None = None,
    initial: Mapping[str, Tensor] | None = None,
    loss: Loss = cross_entropy,
) -> nn.Module:
    """Train a network by the recipe of a set: its steps, step sizes, optimizer and statistics.

    What was learned about BatchNorm statistics belongs to one architecture. For another one they
    are tracked as usual and taken afresh from the synthetic images at the end. Where nothing was
    learned about them, every architecture is trained as usual.

    Args:
        synthetic: the set.
        network: where it starts, with stock layers; it is trained in place.
        seed: decides augmentation, the order of minibatches and the network's random numbers.
        which: place of the network among those of the set (``recipe.architectures``); by default
            the first whose BatchNorm layers have what the set has learned about it.
        initial: weights and statistics to start from, by name, for a fixed initialization.
        loss: ``(logits, labels) -> scalar``; labels may be probabilities.

    Returns:
        ``network``, in eval mode, with stock layers.

    Raises:
        ValueError: ``initial``, the images or the step sizes do not fit the network.
        DivergedError: what was trained has values that are not numbers.
    """
    recipe = synthetic.recipe
    _check_fit(network, synthetic)
    network.train()
    # A recipe takes no other words.
    policy = cast(Statistics, recipe.statistics or "tracked")
    convert_bn(network, policy, cast(TrainWith, recipe.train_with), missing_ok=True)
    which = _place_of(network, synthetic) if which is None else which
    constants = synthetic.constants(which)
    own_name = recipe.architectures[which].model or "its network"
    is_plain = policy == "tracked" and not synthetic.has_constants
    if is_plain:
        constants = {}
    fits = is_plain or _fits(network, constants)
    if initial:
        _start_from(network, initial)
    if not fits:
        constants = {}
        convert_bn(revert_bn(network), "tracked", missing_ok=True)
        warnings.warn(
            f"what the set has learned about BatchNorm belongs to {own_name}, "
            f"not to this {type(network).__name__}; its statistics are taken from the synthetic "
            "images",
            OtherArchitectureWarning,
            stacklevel=2,
        )
    problem = BilevelProblem(
        network,
        optimizer=recipe.make_optimizer(),
        inner_loss=loss,
        autocast=recipe.autocast,
    )
    _check_step_sizes(recipe, problem.model, f"this {type(network).__name__}", own_name)
    _find_moving(problem.model, synthetic, seed)
    state = initial_state(problem, network)
    infinite = infinite_in(network)
    trained = train_on(synthetic, problem, state, seed, constants=constants)
    _write(network, trained, constants)
    revert_bn(network)
    if not fits:
        refresh_statistics(network, synthetic)
    network.eval()
    largest = f"{float(synthetic.step_sizes().max()):.3g}"
    check_trained(
        network,
        _input(synthetic, 256),
        infinite,
        f"the recipe has step sizes up to {largest}; train with another seed, or as on real images "
        'with protocol="standard"',
    )
    return network


def _check_step_sizes(recipe: Recipe, model: FunctionalModel, name: str, own_name: str) -> None:
    """Check that there is a step size for each parameter, where a set has one for each."""
    sized = recipe.step_size_parameters
    if sized is not None and (missing := sorted(set(model.parameters) - set(sized))):
        raise ValueError(
            f"the set has a step size for each parameter of {own_name}, and "
            f"none for {missing[0]!r} of {name}; train it as on "
            'real images with protocol="standard"'
        )


def _fits(network: nn.Module, constants: Mapping[str, Tensor]) -> bool:
    """Return whether a converted network has the BatchNorm layers of what was learned."""
    places = learnable_constants(network)
    return {n: t.shape for n, t in places.items()} == {n: t.shape for n, t in constants.items()}


def _place_of(network: nn.Module, synthetic: SyntheticSet) -> int:
    """Return the first place in a set that a converted network may have; 0 if there is none.

    By what was learned about BatchNorm, since nothing else of the set belongs to a network.
    """
    places = range(len(synthetic.recipe.architectures))
    return next((p for p in places if _fits(network, synthetic.constants(p))), 0)


def train_as_usual(synthetic: SyntheticSet, network: nn.Module, seed: int) -> nn.Module:
    """Train a network on a set as on real images: AdamW with a cosine schedule, its own BatchNorm.

    Args:
        synthetic: the set; of its recipe only augmentation, transform and precision are used.
            Learned labels are used where they are probabilities: weights of the classes in the loss
            may be negative, and go with the few steps that they were learned for, so classes take
            their place.
        network: trained in place.
        seed: decides batches and augmentation.

    Returns:
        ``network``, in eval mode.

    Raises:
        ValueError: the images do not fit the network.
        DivergedError: what was trained has values that are not numbers.
    """
    with torch.no_grad():
        weights = synthetic.label_form == "weights"
        images, targets = synthetic.images(), synthetic.labels if weights else synthetic.targets()
    _check_fit(network, synthetic)
    infinite = infinite_in(network)
    with seeded_generators(seed):
        train_on_few(
            network,
            images,
            targets,
            prepare=preparation(synthetic),
            seed=mix(seed, Purpose.STANDARD_TRAINING),
            autocast=synthetic.recipe.autocast,
        )
    network.eval()
    check_trained(
        network,
        _input(synthetic, 256),
        infinite,
        "the images of the set do not suit this network; train it with another seed, or take "
        "another network",
    )
    return network


@torch.no_grad()
def _input(synthetic: SyntheticSet, count: int) -> Tensor:
    """Return the network input of the first images, as they are."""
    return synthetic.transform(synthetic.images()[:count])


def _check_fit(network: nn.Module, synthetic: SyntheticSet) -> None:
    """Bring a network to where the images are, and see that it takes them."""
    images = _input(synthetic, 2)
    network.to(images.device, images.dtype)
    check_takes(network, images, synthetic.recipe.num_classes)


def _find_moving(model: FunctionalModel, synthetic: SyntheticSet, seed: int) -> None:
    """Have the engine find buffers of the network's own that training moves.

    Before a state is made, of which they are a part.
    """
    with torch.no_grad(), untouched_generators(), model.ready():
        images, _ = synthetic.batch(0, seed)
        model.probe(images, Draws(0))


@torch.no_grad()
def refresh_statistics(network: nn.Module, synthetic: SyntheticSet) -> None:
    """Set BatchNorm statistics to those of the synthetic images under the network's weights.

    In passes over the set as training goes through it, averaged with equal weights ("precise
    BatchNorm", Wu and Johnson, arXiv 2105.07576).
    """
    layers = [m for m in network.modules() if isinstance(m, BATCH_NORMS) and m.track_running_stats]
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
    was_training = network.training
    network.train()
    recipe = synthetic.recipe
    passes = recipe.groups if recipe.batching == "groups" else 1
    if recipe.batch_size is not None:
        passes = max(1, len(synthetic.labels) // recipe.batch_size)
    with untouched_generators():
        for step in range(passes):
            network(synthetic.transform(synthetic.images()[synthetic.indices(step, 0)]))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    network.train(was_training)


@torch.no_grad()
def _start_from(network: nn.Module, initial: Mapping[str, Tensor]) -> None:
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    for name, value in initial.items():
        if name not in tensors or tensors[name].shape != value.shape:
            have = "none" if name not in tensors else str(tuple(tensors[name].shape))
            raise ValueError(
                f"the set was distilled for one initialization, whose {name!r} has shape "
                f"{tuple(value.shape)}; the network has {have}. Leave the model out to train the "
                'one that it was made for, or use protocol="standard"'
            )
        tensors[name].copy_(value)


@torch.no_grad()
def _write(network: nn.Module, state: RunState, constants: Mapping[str, Tensor]) -> None:
    places = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    for tensors in (state.parameters, state.statistics, state.counters, constants):
        for name, value in tensors.items():
            places[name].copy_(value)
