"""The private names of torch that the engine depends on, in one place.

Beside `dd_plugin.bn.private`, which has those that the layers need as well. Each name is looked up
here and nowhere else, and its entry in `NAMES` says what happens without it: most cost a
convenience or speed, those of the tracer cost the tracer, and the engine runs eagerly then.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from dd_plugin.bn.private import lookup

_REVERSE = 'Forward mode cannot be told of `no_grad`; runs use `method="reverse"`, with a warning.'
_EAGER = "Nothing can be traced or compiled; problems run eagerly, after a warning."

# Name -> what happens without it.
NAMES: dict[str, str] = {
    "torch._C._functorch.get_inplace_requires_grad_allowed": (
        "A model that marks an activation with `requires_grad_()` is refused by torch."
    ),
    "torch._C._functorch.is_functorch_wrapped_tensor": (
        "A tensor of a finished transform that a model kept in an attribute stays there."
    ),
    "torch._C._set_grad_enabled": _REVERSE,
    "torch._C._set_fwd_grad_enabled": _REVERSE,
    "torch._C._is_fwd_grad_enabled": _REVERSE,
    "torch._C._functorch.get_interpreter_stack": (
        "A transform that a loss uses by itself inside of `no_grad` is not seen there; the "
        "verification of the first step finds the difference."
    ),
    "torch._C._functorch.CGradInterpreterPtr": "The same.",
    "torch._C._functions": (
        "The second derivative of a function marked with `once_differentiable` is left out, as "
        "torch does."
    ),
    "torch._C._nn": "Operations called by these names keep torch's own derivatives.",
    "torch._weight_norm": "The same.",
    "torch.nn.utils.weight_norm._weight_norm": "The same.",
    "torch.utils.checkpoint._checkpoint_impl": (
        "Activation checkpointing that a model calls under another name is not switched off."
    ),
    "torch._decomp.decompositions_for_jvp": (
        "Dynamo may take a replacement for torch's own function, and compiled steps may fail; they "
        "run eagerly then, after a warning."
    ),
    "torch._dynamo.variables.builder": "The same.",
    "torch._dynamo.trace_rules": "The same.",
    "torch._inductor.list_options": "Options that the compiler does not know make it fail.",
    "torch._inductor.utils.clear_caches": (
        "A damaged library in the compiler's cache makes it fail; problems run eagerly, after a "
        "warning."
    ),
    "torch.fx.experimental.proxy_tensor.get_proxy_mode": (
        "`one_hot` is computed by comparison everywhere, not only while tracing."
    ),
    "torch.fx.experimental.proxy_tensor.make_fx": _EAGER,
    "torch._ops.OpOverload._schema": _EAGER,
    "torch.utils._python_dispatch.TorchDispatchMode": (
        "What a model writes into is told by its values, so a write of the same value is missed."
    ),
    "torch._foreach_copy_": "What goes into and out of a recording is copied one by one: slower.",
    "torch.Tensor._version": (
        "What stays the same from one replay of a recording to the next is copied again: slower."
    ),
    "torch.ops.aten._to_copy": "A pass over a traced graph simplifies less.",
    "torch.ops.aten._unsafe_view": "The same.",
    "torch.ops.aten._efficientzerotensor": "The same.",
}


class TracingUnavailableError(RuntimeError):
    """This torch lacks what tracing needs; the engine runs eagerly."""


def _optional(name: str) -> Any | None:
    assert name in NAMES
    return lookup(name)


# The home of operations that code may call by a native name, or None.
native_nn: Any | None = _optional("torch._C._nn")
# The module, whose name in `torch.nn.utils` is that of a function.
weight_norm_module: ModuleType | None = sys.modules.get("torch.nn.utils.weight_norm")
get_proxy_mode: Callable[[], Any] | None = _optional(
    "torch.fx.experimental.proxy_tensor.get_proxy_mode"
)

# The modes of differentiation, read and set for one thread.
set_grad_mode: Callable[[bool], None] | None = _optional("torch._C._set_grad_enabled")
set_forward_mode: Callable[[bool], None] | None = _optional("torch._C._set_fwd_grad_enabled")
get_forward_mode: Callable[[], bool] | None = _optional("torch._C._is_fwd_grad_enabled")
# The function transforms at work.
peek_interpreter_stack: Callable[[], Any] | None = lookup(
    "torch._C._functorch.peek_interpreter_stack"
)
get_interpreter_stack: Callable[[], Any] | None = _optional(
    "torch._C._functorch.get_interpreter_stack"
)
gradient_transform: Callable[[Any], Any] | None = _optional(
    "torch._C._functorch.CGradInterpreterPtr"
)
# The home of the node behind a `once_differentiable` backward, or None.
native_functions: Any | None = _optional("torch._C._functions")

_make_fx: Callable[..., Any] | None = _optional("torch.fx.experimental.proxy_tensor.make_fx")
_requires_grad_is_allowed = _optional("torch._C._functorch.get_inplace_requires_grad_allowed")
_is_wrapped = _optional("torch._C._functorch.is_functorch_wrapped_tensor")
_copy_each: Callable[[list[Tensor], list[Tensor]], None] | None = _optional("torch._foreach_copy_")
_version: Any | None = _optional("torch.Tensor._version")


def refuses_requires_grad() -> bool:
    """Whether a function transform is at work that refuses `requires_grad_()`; False if unknown."""
    if peek_interpreter_stack is None or _requires_grad_is_allowed is None:
        return False
    return peek_interpreter_stack() is not None and not _requires_grad_is_allowed()


def is_of_transform(tensor: Tensor) -> bool:
    """Whether a tensor is a wrapper of a function transform; False if unknown."""
    return _is_wrapped is not None and bool(_is_wrapped(tensor))


def may_be_traced() -> bool:
    """Whether `make_graph` may be running; True if unknown."""
    return get_proxy_mode is None or get_proxy_mode() is not None


def make_fx_of_fakes(function: Callable[..., Any]) -> Callable[..., Any]:
    """`make_fx` on tensors without data, which takes real tensors from a closure as constants.

    Raises:
        TracingUnavailableError: this torch has no `make_fx`, or its graphs do not say what is
            written into.
    """
    if _make_fx is None or not hasattr(torch.ops.aten.add.Tensor, "_schema"):
        name = "make_fx" if _make_fx is None else "OpOverload._schema"
        raise TracingUnavailableError(
            f"torch {torch.__version__} has no {name}, which tracing needs"
        )
    try:
        return _make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)
    except TypeError:  # the option is gone; without it a closure must not hold tensors
        return _make_fx(function, tracing_mode="fake")


def build_dynamo_rules() -> None:
    """Let Dynamo look up torch's functions by name now; without effect where it has no such table.

    It does so once per process, at the first jvp or compilation, and keeps what it finds: done
    inside of `second_order` it would take the replacements for torch's functions ever after.
    """
    with warnings.catch_warnings():
        # Parts of torch that are loaded at the first jvp use what torch itself has deprecated.
        warnings.simplefilter("ignore", FutureWarning)
        for name in (
            "torch._decomp.decompositions_for_jvp",
            "torch._dynamo.variables.builder",
            "torch._dynamo.trace_rules",
        ):
            try:
                importlib.import_module(name)
            except ImportError:
                continue
    build = getattr(sys.modules.get("torch._dynamo.trace_rules"), "get_torch_obj_rule_map", None)
    if build is not None:
        build()


def dynamo_builder() -> ModuleType | None:
    """The module in which Dynamo recognises checkpointing, where it is loaded and does so."""
    module = sys.modules.get("torch._dynamo.variables.builder")
    return module if hasattr(module, "is_utils_checkpoint") else None


def known_inductor_options(options: dict[str, Any]) -> dict[str, Any]:
    """Those of the options that this torch's compiler has; all where it does not tell."""
    list_options = _optional("torch._inductor.list_options")
    if list_options is None:
        return options
    known = set(list_options())
    return {name: value for name, value in options.items() if name in known}


def forget_compiled_files() -> None:
    """Let the compiler forget which files of its cache this process has found, if it can."""
    clear = _optional("torch._inductor.utils.clear_caches")
    if clear is not None:
        clear()


def operations(*names: str) -> frozenset[Any]:
    """Those of some operations of ``torch.ops.aten``, named as ``"add.Tensor"``, that exist.

    A pass over a graph leaves operations that it does not know as they are: slower, and as exact.
    """
    return frozenset(op for op in map(operation, names) if op is not None)


def operation(name: str) -> Any | None:
    """One operation of ``torch.ops.aten``, ``"add.Tensor"``; None if it does not exist."""
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet, None), overload, None)


def copy_all(targets: list[Tensor], sources: list[Tensor]) -> None:
    """Copy each source into its target, of the same shapes; in few kernels on a GPU."""
    if not targets:
        return
    if _copy_each is not None:
        _copy_each(targets, sources)
        return
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)


def version_of(tensor: Tensor) -> int | None:
    """How often a tensor has been written into; None if it does not tell."""
    try:
        return None if _version is None else _version.__get__(tensor)
    except RuntimeError:  # made in inference mode
        return None


class _NoMode:
    """Stands in for `TorchDispatchMode`: a context that sees no operation."""

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *error: object) -> None:
        return None


# The base of contexts that see every operation of a thread.
DISPATCH_MODE: Any = _optional("torch.utils._python_dispatch.TorchDispatchMode") or _NoMode

# The conversion to another dtype or device, or None.
TO_COPY: Any | None = operation("_to_copy.default")
