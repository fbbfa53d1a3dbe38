"""What is computed without gradient has no tangent: `torch.no_grad` for forward mode.

Used by `problem` around the backward sweep. The sweep is the jvp of a gradient. The gradient inside
of it obeys `torch.no_grad`; the jvp around it does not, since torch defines `no_grad` for reverse
mode only. A weight of a loss that is computed under `no_grad` would be constant for one and
variable for the other, and the result neither's derivative. So while a sweep runs, forward mode is
switched off and on together with the grad mode, and what leaves the graph by other ways leaves the
tangents behind as well:

- `no_grad`, `enable_grad` and `set_grad_enabled`, as contexts, decorators and calls, all of which
  go through one function of torch;
- ``tensor.data`` and ``tensor.detach_()``;
- custom autograd functions under `no_grad`, for which torch switches forward mode on again.

What torch does in reverse mode is the rule throughout. A tensor that is changed in place under
`no_grad` keeps its graph, so it keeps its tangent.

`once_differentiable_refused` is about the other direction: torch leaves the second derivative of a
function that is marked with `once_differentiable` out of a double backward, and says so only where
the backward pass happens to go through a certain node. With it such a function raises.
"""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from dd_plugin.bilevel.foreign_models import patching
from dd_plugin.bilevel.foreign_models.patching import Patch
from dd_plugin.bilevel.step_values import tree_map_only
from dd_plugin.private import (
    GRAD_MODE_SWITCH,
    get_forward_mode,
    get_interpreter_stack,
    gradient_transform,
    native_functions,
    peek_interpreter_stack,
    set_forward_mode,
    set_grad_mode,
)

# Otherwise forward mode cannot be told of `no_grad`: `adjoints` goes in reverse then.
RESPECTED = None not in (set_grad_mode, set_forward_mode, get_forward_mode)

_native_data: Any = Tensor.data
_native_detach_ = Tensor.detach_
_native_apply: Any = inspect.getattr_static(torch.autograd.Function, "apply")


class _Sweep:
    """The place of one sweep among nested function transforms.

    A transform that the model or the loss uses by itself (`torch.func.grad` in a loss) switches
    gradients on for its own level. What lies around it has tangents only if it had them before.
    """

    def __init__(self) -> None:
        # The gradient inside of the sweep, which is entered next.
        self._own = _innermost_level() + 1

    def switch(self, mode: bool) -> None:
        """Set forward mode like the grad mode, at the level of the transform that runs."""
        assert set_forward_mode is not None
        nested = mode and _innermost_level() > self._own
        set_forward_mode(mode and not (nested and _entered_without_grad(self._own)))


class _PerThread(threading.local):
    sweep: _Sweep | None = None


_thread = _PerThread()


def _innermost_level() -> int:
    """Return the level of the innermost function transform; 0 for none, or if unknown."""
    innermost = None if peek_interpreter_stack is None else peek_interpreter_stack()
    return 0 if innermost is None else int(innermost.level())


def _entered_without_grad(level: int) -> bool:
    """Return whether a gradient transform inside of ``level`` was entered with gradients off."""
    if get_interpreter_stack is None or gradient_transform is None:
        return False
    return any(
        not gradient_transform(transform).prevGradMode()
        for transform in get_interpreter_stack() or ()
        if transform.level() > level and transform.key().name == "Grad"
    )


def _set_both_modes(mode: bool) -> None:
    """Set the grad mode as torch does, and forward mode with it."""
    assert set_grad_mode is not None
    set_grad_mode(mode)
    if _thread.sweep is not None:
        _thread.sweep.switch(mode)


def _get_data(self: Tensor) -> Any:
    data = _native_data.__get__(self)
    return data if _thread.sweep is None else data.detach()


def _set_data(self: Tensor, value: Tensor) -> None:
    _native_data.__set__(self, value)


def _detach_(self: Tensor) -> Tensor:
    _native_detach_(self)
    # The values are the same; a copy from what has no tangent leaves none.
    return self if _thread.sweep is None else self.copy_(self.detach())


def _apply_to_constants(cls: type[torch.autograd.Function], *args: Any, **kwargs: Any) -> Any:
    """Call `torch.autograd.Function.apply`, on constants where gradients are off."""
    if _thread.sweep is not None and not torch.is_grad_enabled():
        args, kwargs = tree_map_only(Tensor, Tensor.detach, (args, kwargs))
    return _native_apply.__get__(None, cls)(*args, **kwargs)


class _OnceDifferentiable:
    """Stands in for the node that torch puts behind a `once_differentiable` backward."""

    def __init__(self, message: bytes, outputs: int) -> None:
        self._message = message.decode()

    def __call__(self, *outputs: Any) -> Any:
        raise RuntimeError(self._message)


@contextlib.contextmanager
def once_differentiable_refused() -> Iterator[None]:
    """Raise where a second derivative goes through a function that says it has none.

    Raises:
        RuntimeError: `missing_rule_operation` knows it.
    """
    known = hasattr(native_functions, "DelayedError")
    patch = Patch(native_functions, "DelayedError", _OnceDifferentiable)
    tickets = patching.apply([patch] if known else [])
    try:
        yield
    finally:
        patching.restore(tickets)


@contextlib.contextmanager
def no_grad_in_forward_mode() -> Iterator[None]:
    """Let forward mode obey `no_grad` in this thread; to be entered inside of the jvp."""
    if not RESPECTED:
        yield
        return
    assert get_forward_mode is not None
    assert set_forward_mode is not None
    tickets = patching.apply(
        [
            Patch(*GRAD_MODE_SWITCH, _set_both_modes),
            Patch(Tensor, "data", property(_get_data, _set_data)),
            Patch(Tensor, "detach_", _detach_),
            Patch(torch.autograd.Function, "apply", classmethod(_apply_to_constants)),
        ]
    )
    forward, outside = get_forward_mode(), _thread.sweep
    try:
        # Gradients on, lest the gradient transform takes what is inside for a part without.
        with torch.enable_grad():
            _thread.sweep = _Sweep()
            try:
                yield
            finally:
                _thread.sweep = outside
                set_forward_mode(forward)
    finally:
        patching.restore(tickets)
