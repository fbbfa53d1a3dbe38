"""Checks of networks: they take the images of a set, and training left them whole.

Used before and after `training` and by `scores` of `dd_plugin.evaluation`. A network of NaN has an
accuracy too, that of guessing one class, so nobody would notice.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from dd_plugin.bilevel import logits_of
from dd_plugin.seeds import untouched_generators
from dd_plugin.text import described

# What the code of a network raises where it is given the wrong images.
MISFITS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


class DivergedError(ValueError):
    """Training ended in a network with values that are not numbers."""


class DivergedWarning(UserWarning):
    """A network gave values that are not numbers; such images count as wrong."""


@torch.no_grad()
def check_takes(network: nn.Module, images: Tensor, num_classes: int) -> None:
    """Run images through a network in eval mode and look at what comes out.

    Args:
        network: its mode is put back.
        images: network input ``(N, C, H, W)``.
        num_classes: logits that it has to have.

    Raises:
        ValueError: it does not take them, or has another number of outputs.
    """
    if any(is_lazy(p) for p in [*network.parameters(), *network.buffers()]):
        return  # it is finished by its first batch, in training
    kind = type(network).__name__
    shape = "x".join(map(str, images.shape[1:]))
    was_training = network.training
    network.eval()
    try:
        with untouched_generators():
            logits = logits_of(network(images.clone()))
    except torch.OutOfMemoryError:
        raise
    except MISFITS as error:
        raise ValueError(
            f"the {kind} does not take the images of this set, {shape} (channels x height x "
            f"width): {described(error)}; use a network that is made for them"
        ) from error
    finally:
        network.train(was_training)
    if logits.shape != (len(images), num_classes):
        raise ValueError(
            f"the {kind} must return logits (N, {num_classes}), one for each class of this set, "
            f"got {tuple(logits.shape)} for {len(images)} images"
        )


def infinite_in(network: nn.Module) -> set[str]:
    """Return the names of the tensors that have infinite values, as masks of attention do."""
    return {name for name, t in _numbers(network).items() if bool(t.isinf().any())}


@torch.no_grad()
def check_trained(network: nn.Module, images: Tensor, infinite: set[str], remedy: str) -> None:
    """Check that a network consists of numbers, and returns numbers.

    Args:
        network: trained, in eval mode.
        images: network input to try it on.
        infinite: names of tensors that had infinite values before.
        remedy: what to do.

    Raises:
        DivergedError: it does not.
    """
    wrong = [
        name
        for name, t in _numbers(network).items()
        if bool(t.isnan().any()) or (name not in infinite and bool(t.isinf().any()))
    ]
    if not wrong:
        with untouched_generators():
            logits = logits_of(network(images.clone()))
        if not bool(logits.isnan().any()):
            return
    where = f"{wrong[0]!r}" if wrong else "its output"
    more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    raise DivergedError(
        f"training diverged: {where}{more} of the {type(network).__name__} "
        f"{'have' if more else 'has'} values that are not finite numbers; {remedy}"
    )


def _numbers(network: nn.Module) -> dict[str, Tensor]:
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    return {name: t.detach() for name, t in tensors.items() if t.is_floating_point()}
