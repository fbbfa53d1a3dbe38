"""A limit on the size of networks, kept before memory is taken for them.

Used by `names`: a recipe that a stranger wrote may name a network that no machine could hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from dd_plugin.networks.errors import ModelLoadError

# No real network has as many modules or parameter tensors.
_MOST_MODULES = 20_000


class _TooLargeError(ModelLoadError):
    """A network is larger than a set may ask for."""


def within(
    max_parameters: int,
    name: str,
    make: Callable[[], nn.Module],
    random: Callable[[], nn.Module],
) -> Callable[[], nn.Module]:
    """Return `make`, whose networks have no more parameters than allowed.

    The limit is checked here, on a network without memory. Where none can be made so, each call of
    the returned function checks it.

    Args:
        max_parameters: The limit.
        name: The name of the model, for messages.
        make: Makes a network.
        random: Makes a network of the same size with random weights.

    Raises:
        ModelLoadError: The network is too large. The returned function raises it, too.
    """
    try:
        with _at_most(max_parameters, name), torch.device("meta"):
            random()
    except _TooLargeError:
        raise
    except Exception:  # noqa: BLE001 - some networks cannot be made without memory; `make` says why
        return lambda: _limited(max_parameters, name, make)
    return make


def _limited(max_parameters: int, name: str, make: Callable[[], nn.Module]) -> nn.Module:
    with _at_most(max_parameters, name):
        return make()


@contextmanager
def _at_most(parameters: int, name: str) -> Iterator[None]:
    """Stop at the layer with which a network that is being made becomes too large."""
    modules = numbers = 0

    def count(module: nn.Module, key: str, new: nn.Module | Tensor | None) -> None:
        nonlocal modules, numbers
        modules += 1
        numbers += new.numel() if isinstance(new, Tensor) else 0
        if numbers > parameters or modules > _MOST_MODULES:
            what = (
                f"more than {parameters:,} parameters; if that is meant, raise `max_parameters` "
                "(`--no_limits` on the command line)"
                if numbers > parameters
                else f"more than {_MOST_MODULES:,} layers"
            )
            raise _TooLargeError(f"the model {name!r:.100} of the set has {what}")

    hooks = [
        register_module_buffer_registration_hook(count),
        register_module_parameter_registration_hook(count),
        register_module_module_registration_hook(count),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
