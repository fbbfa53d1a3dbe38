"""Fresh networks of one architecture, each a function of a seed.

Used by `networks` for a ``model_init`` that makes networks. The factory is checked once: it has to
make a new network of the same architecture each time, and networks may differ in nothing but what
inner training moves.

What can be redrawn in place is: where a model's own `reset_parameters` (or that of each of its
layers) is seen to give, bit for bit, the network that the factory makes from the same seed. A fresh
state of `dd_convnet` then takes 1.8 instead of 2.7 ms on one CPU core. Otherwise a new model is
made each time: 105 ms for timm's resnet18, whose layers' `reset_parameters` draw from another
distribution than its constructor does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from dd_plugin.bilevel import FunctionalModel
from dd_plugin.bn import tracking_tensors
from dd_plugin.bn.convert import use_own_batches
from dd_plugin.networks.fresh import made_from
from dd_plugin.seeds import seeded_generators

# How to ask for one start, in settings and in `Networks`.
FIXED = 'init="fixed" (`mode` of `Networks`)'


class NetworkFactory:
    """Makes the networks of one architecture.

    Args:
        make: returns a new network, which it draws from the global generators.
    """

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        self._make = make
        self._scratch: nn.Module | None = None

    @property
    def redraws_in_place(self) -> bool:
        """Whether `fresh` redraws one network, instead of making one each time."""
        return self._scratch is not None

    def new(self, seed: int) -> nn.Module:
        """Return a new network, drawn as if all generators had just been seeded."""
        # Each process has networks of its own, and not always as many as the others.
        return use_own_batches(made_from(self._make, seed))

    def fresh(self, seed: int) -> nn.Module:
        """Return a network with the weights of `new`; the next call may overwrite it."""
        if self._scratch is None:
            return self.new(seed)
        with seeded_generators(seed):
            _redraw(self._scratch)
        return self._scratch

    def check(self, first: nn.Module, roles: FunctionalModel, first_seed: int, seed: int) -> None:
        """Compare a second network with the first, and see whether it can be redrawn in place.

        Args:
            first: the network that `new` made from ``first_seed``, converted.
            roles: the same as a function, which knows what training moves.
            first_seed: see ``first``.
            seed: of the second network.

        Raises:
            ValueError: the networks are one and the same, are alike, or are too different.
        """
        second = self.new(seed)
        shared = {id(p) for p in first.parameters()} & {id(p) for p in second.parameters()}
        if second is first or shared:
            raise ValueError(
                "`model_init` must make a new network each time it is called, but it returned "
                + ("the same one twice" if second is first else "two that share parameters")
                + f"; make it inside of the function, or pass the module itself with {FIXED}"
            )
        check_alike(first, second)
        _check_drawn(roles, like(second, first))
        # The proof that redrawing is enough: the first network again, from its seed.
        with seeded_generators(first_seed):
            redrawn = _redraw(second)
        firsts = dict(tensors_of(first))
        if redrawn and all(_same(t, firsts[name]) for name, t in like(second, first).items()):
            self._scratch = second


def check_alike(first: nn.Module, other: nn.Module) -> None:
    """See that two networks have the same tensors, but for those that conversion adds.

    Raises:
        ValueError: they are not of one architecture.
    """
    mine = {name: t.shape for name, t in tensors_of(first)}
    others = {name: t.shape for name, t in tensors_of(other)}
    added = tracking_tensors(first)
    for name in {**others, **mine}:
        if others.get(name) != mine.get(name) and name not in added:
            raise ValueError(
                "`model_init` must make networks of one architecture, but "
                f"{name!r} has shape {_shape(mine.get(name))} in one and "
                f"{_shape(others.get(name))} in another"
            )


def tensors_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the parameters and buffers of a network by name."""
    yield from model.named_parameters()
    yield from model.named_buffers()


def like(model: nn.Module, first: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a network, each on the device and of the type that another has."""
    firsts = dict(tensors_of(first))
    return {name: t.to(firsts[name].device, firsts[name].dtype) for name, t in tensors_of(model)}


def _check_drawn(roles: FunctionalModel, second: dict[str, Tensor]) -> None:
    """See that two networks differ in what is trained, and in nothing else."""
    trained = {name: t for name, t in roles.parameters.items() if name in second}
    if all(_same(second[name], t) for name, t in trained.items()):
        raise ValueError(
            "`model_init` must draw a new network each time it is called, but two have the same "
            "weights (they are loaded, or drawn from a seed that the function sets); use "
            f"{FIXED}, or leave the drawing to torch's global generator"
        )
    for name, tensor in {**roles.fixed, **roles.constants}.items():
        if name in second and not _same(second[name], tensor):
            raise ValueError(
                f"{name!r} is not trained, yet it differs from one network of `model_init` to the "
                "next; inner runs can only start from what they train, so make it trainable, make "
                f"it the same each time, or use {FIXED}"
            )


def _redraw(model: nn.Module) -> bool:
    """Redraw a model by its `reset_parameters`, or else by those of its parts.

    Returns:
        Whether there was something to call and it could be called.
    """
    of_model = getattr(model, "reset_parameters", None)
    of_parts = [getattr(module, "reset_parameters", None) for module in model.modules()]
    resets = [of_model] if of_model is not None else [r for r in of_parts if r is not None]
    try:
        for reset in resets:
            reset()
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return False
    return bool(resets)


def _same(a: Tensor, b: Tensor) -> bool:
    if a.is_floating_point():
        return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
    return torch.equal(a, b)


def _shape(shape: torch.Size | None) -> str:
    return "none" if shape is None else str(tuple(shape))
