"""The private names of torch that `dd_plugin.bn` depends on, in one place.

Bottom of the package. Each optional name is looked up once, when this module is imported, and its
entry in `NAMES` says what is lost without it. What `dd_plugin.bilevel` needs beyond this stands in
`dd_plugin.bilevel.private`. Parts of `torch.nn.Module` that the layer cannot do without are
checked here, so that a torch without them is refused with a message.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.autograd import forward_ad

# Optional name -> what happens without it.
NAMES: dict[str, str] = {
    "torch._C._functorch.peek_interpreter_stack": (
        "Converted layers use their plain formulas everywhere, which are slower than the fused "
        "kernel in ordinary training."
    ),
    "torch.autograd.forward_ad._current_level": "The same.",
}

# What the layer overrides or writes into; the attributes of an instance come first.
_MODULE_ATTRIBUTES = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")
_MODULE_METHODS = ("_save_to_state_dict", "_load_from_state_dict", "_apply")


def lookup(path: str) -> Any | None:
    """Return the object that a dotted path names, None where a part of it does not exist.

    Args:
        path: ``"torch._C._functorch.peek_interpreter_stack"``, for example. Modules on the way
            are imported.
    """
    root, *rest = path.split(".")
    value: Any = importlib.import_module(root)
    for position, part in enumerate(rest, start=2):
        if not hasattr(value, part):
            try:
                importlib.import_module(".".join([root, *rest][:position]))
            except ImportError:
                return None
        if not hasattr(value, part):
            return None
        value = getattr(value, part)
    return value


def _missing_module_parts() -> list[str]:
    blank = nn.Module()
    return [name for name in (*_MODULE_ATTRIBUTES, *_MODULE_METHODS) if not hasattr(blank, name)]


_missing = _missing_module_parts()
if _missing:
    raise ImportError(
        f"torch {torch.__version__} has no torch.nn.Module.{_missing[0]}, which dd_plugin needs "
        "to convert layers; install an older torch, or a newer dd_plugin"
    )

_peek_interpreter_stack: Callable[[], Any] | None = lookup(
    "torch._C._functorch.peek_interpreter_stack"
)
_levels_are_known = hasattr(forward_ad, "_current_level")


def in_transform() -> bool:
    """Whether a function transform or forward-mode differentiation is at work, or may be.

    True where torch does not tell, since the plain formulas are right in any case.
    """
    if _peek_interpreter_stack is None or not _levels_are_known:
        return True
    return _peek_interpreter_stack() is not None or forward_ad._current_level >= 0


def is_tracing() -> bool:
    """Whether `torch.jit.trace` is at work; False in a torch that no longer has it."""
    ask: Callable[[], bool] | None = getattr(torch.jit, "is_tracing", None)
    return ask is not None and ask()


# The class that `BatchNorm1d`, `2d` and `3d` have in common, without its private name.
BATCH_NORM_BASE: type[nn.Module] = next(
    cls for cls in nn.BatchNorm2d.__mro__ if "forward" in vars(cls)
)
# For isinstance: every BatchNorm of torch.
BATCH_NORMS: tuple[type[Any], ...] = (
    BATCH_NORM_BASE,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
)
