"""The context in which a model that was not written for it can be differentiated twice.

`dd_plugin.bn` is for BatchNorm, and this for the rest of the model. The engine computes the jvp of
a gradient (forward over reverse), and falls back to double backward. Four kinds of things in
ordinary vision models break one or both. `second_order` removes them while it is active, and
leaves no trace: operations without rules (`formulas` has formulas for them), caches
that swallow gradients or keep tensors of a finished transform, activation checkpointing, and
inputs that are written into (`inspection` finds the last three). `second_order_needs` reports
what of this a model has.

How operations are replaced: by setting the names under which code looks them up
(`torch.nn.functional.hardsigmoid`, ...), not by a `TorchFunctionMode`. Dynamo does not show a mode
the operations that torch excludes from overriding, `hardsigmoid` among them, nor does a mode see
what torch's own Python functions call inside (the attention in `multi_head_attention_forward`);
and tracing every operation through a mode took up to twice the time. A name that is set is seen by
all of these, and costs nothing per operation. The price: references taken earlier have to be
found, and other threads see the replacements too.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from dd_plugin.bilevel.foreign_models import patching
from dd_plugin.bilevel.foreign_models.autocast import NORMALIZATIONS
from dd_plugin.bilevel.foreign_models.formulas import REPLACEMENTS
from dd_plugin.bilevel.foreign_models.inspection import (
    drop_escaped,
    model_patches,
    tensor_attributes,
)
from dd_plugin.bilevel.foreign_models.patching import Patch
from dd_plugin.bilevel.foreign_models.pooling import avg_pool2d
from dd_plugin.bilevel.foreign_models.report import (
    SecondOrderNeed,
    missing_rule_operation,
    second_order_needs,
)
from dd_plugin.private import (
    CHECKPOINT_IMPLEMENTATION,
    build_dynamo_rules,
    dynamo_builder,
    refuses_requires_grad,
    transformers_caches,
)

__all__ = ["SecondOrderNeed", "missing_rule_operation", "second_order", "second_order_needs"]

_CHECKPOINT_OPTIONS = (
    "use_reentrant",
    "preserve_rng_state",
    "context_fn",
    "determinism_check",
    "debug",
    "early_stop",
    "respect_saved_tensors_hooks",
)


def _run_without_checkpoint(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Stand in for `torch.utils.checkpoint.checkpoint`, and keep the activations."""
    return function(*args, **{k: v for k, v in kwargs.items() if k not in _CHECKPOINT_OPTIONS})


def _run_implementation(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], **options: Any
) -> Any:
    """Run what `checkpoint` calls, for callers that hold it under another name."""
    return function(*args, **kwargs)


_native_checkpoint = torch.utils.checkpoint.checkpoint


_native_requires_grad_ = torch.Tensor.requires_grad_


def _requires_grad_(self: torch.Tensor, requires_grad: bool = True) -> torch.Tensor:
    """`Tensor.requires_grad_` that does nothing where a function transform would refuse it.

    What a transform differentiates with respect to is fixed from outside; a model that marks an
    activation (MaskFormer of transformers) changes no derivative by it. The transforms themselves
    mark their inputs through this name, and say so by the flag that is asked for here.
    """
    return self if refuses_requires_grad() else _native_requires_grad_(self, requires_grad)


def _is_native_checkpoint(value: object) -> bool:
    return value is _native_checkpoint


def _true() -> bool:
    return True


# Where a function stands, its name, and what stands for it.
_OPERATIONS: tuple[tuple[Any, str, Callable[..., Any]], ...] = (
    *REPLACEMENTS,
    (F, "avg_pool2d", avg_pool2d),
    *((F, name, normalize) for name, normalize in NORMALIZATIONS.items()),
)
# id of the native function -> its replacement, for references that a model took earlier.
_REPLACED: dict[int, Callable[..., Any]] = {
    id(getattr(home, name)): replacement for home, name, replacement in _OPERATIONS
} | {id(_native_checkpoint): _run_without_checkpoint}


def _global_patches() -> Iterator[Patch]:
    for home, name, replacement in _OPERATIONS:
        yield Patch(home, name, replacement)
    yield Patch(torch.Tensor, "requires_grad_", _requires_grad_)
    checkpoint = torch.utils.checkpoint
    yield Patch(checkpoint, "checkpoint", _run_without_checkpoint)
    dynamo = dynamo_builder()
    if dynamo is not None:
        # Dynamo takes whatever has the name of `checkpoint` for it.
        yield Patch(dynamo, "is_utils_checkpoint", _is_native_checkpoint)
    if hasattr(*CHECKPOINT_IMPLEMENTATION):
        yield Patch(*CHECKPOINT_IMPLEMENTATION, _run_implementation)
    transformers = transformers_caches()
    if transformers is not None:
        # The wrapper that transformers puts around its process-wide caches bypasses them when it
        # believes that it is being compiled.
        yield Patch(transformers, "is_torchdynamo_compiling", _true)


_fastpath_lock = threading.Lock()
_fastpath_depth = 0
_fastpath_before = True


def _enter_fastpath() -> None:
    global _fastpath_depth, _fastpath_before
    with _fastpath_lock:
        if _fastpath_depth == 0:
            _fastpath_before = torch.backends.mha.get_fastpath_enabled()
            torch.backends.mha.set_fastpath_enabled(False)
        _fastpath_depth += 1


def _leave_fastpath() -> None:
    global _fastpath_depth
    with _fastpath_lock:
        _fastpath_depth -= 1
        if _fastpath_depth == 0:
            torch.backends.mha.set_fastpath_enabled(_fastpath_before)


@contextlib.contextmanager
def second_order(model: nn.Module | None = None) -> Iterator[None]:
    """Make second derivatives through ordinary vision models available while active.

    While active:

    - the operations of `formulas` are replaced by formulas that have every rule, with the same
      values, and average pooling by one that is faster on CPU; the fused inference path of
      `nn.MultiheadAttention` is off;
    - normalizations compute in float32 under autocast, as they do on a GPU without this;
    - `torch.utils.checkpoint.checkpoint` runs its function plainly, keeping the activations;
    - `requires_grad_()` on an activation does nothing inside of a function transform, which would
      refuse it;
    - process-wide caches of transformers are bypassed, in both directions;
    - of `model`: eval-mode attention-bias caches are neither read nor filled, `functools` caches in
      its classes and source files are bypassed, activation checkpointing flags are off, and
      references it holds to replaced functions are replaced. A model that may update one of its
      inputs in place (`pixel_values *= mask`) works on copies of them: no transform lets it write
      into a tensor from outside, and learned inputs must not change under the engine.

    On exit, also by an exception, every name is what it was, and an attribute of `model` that was
    left holding a tensor of a functorch transform is put back. Parameters, buffers and other
    changes made to the model inside are left alone. Contexts may nest, with the same or with other
    models; a model that is run inside should be given to one of them.

    With `torch.compile`: enter the context around the call of the compiled function, the first
    (compiling) one included. It cannot be entered inside of a compiled function. Dynamo guards the
    names, so a function that was compiled outside is compiled again when called inside.

    Threads: the names are process-wide, counted under a lock. Several threads may be inside at
    once and leave in any order; a thread that is not inside sees the replacements meanwhile (same
    values, other speed and memory).

    Not reached: calls inside TorchScript, C++ extensions, and references to a replaced function
    kept elsewhere than in the model's modules and source files. They raise torch's own error, see
    `missing_rule_operation`.

    The engine differentiates gradients (jvp of grad). The other order, grad of jvp, is not made
    right by this: torch's `layer_norm`, `instance_norm` and `batch_norm` are silently wrong there.

    Args:
        model: the model that is going to be differentiated; None leaves all models untouched.

    Raises:
        TypeError: `model` is not an `nn.Module`.
        RuntimeError: entered inside of a function that `torch.compile` is tracing.
    """
    if model is not None and not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be an nn.Module or None, got {type(model).__name__}")
    if torch.compiler.is_compiling():
        raise RuntimeError(
            "`second_order` must be entered outside of a compiled function, got a call while "
            "torch.compile traces; enter it around the call of the compiled function"
        )
    build_dynamo_rules()
    before = [] if model is None else tensor_attributes(model)
    patches = list(_global_patches())
    if model is not None:
        patches += model_patches(model, _REPLACED)
    tickets = patching.apply(patches)
    _enter_fastpath()
    try:
        yield
    finally:
        _leave_fastpath()
        patching.restore(tickets)
        drop_escaped(before)
