"""Every name that another library does not promise to keep, in one place.

At the bottom, for every part, which calls what is defined here instead. `NAMES` says what happens
without a name: most cost a convenience or speed, those of the tracer cost the tracer, and the
engine runs eagerly then. A torch whose modules lack what the layers need is refused with a message.
Only torch is imported; what a model has loaded of other libraries is found in `sys.modules`.

The methods of `torch.nn.Module` that layers override are checked here and are in `bn.policy`.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import warnings
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

_PLAIN = "Converted layers use plain formulas everywhere, slower than torch's fused kernel."
_REVERSE = 'Forward mode cannot be told of `no_grad`; runs use `method="reverse"`, with a warning.'
_EAGER = "Nothing can be traced or compiled; problems run eagerly, after a warning."
_DYNAMO = (
    "Dynamo may take a replacement for torch's function; steps may run eagerly, with a warning."
)
_UNSEEN = "A transform inside of `no_grad` in a loss is not seen; the verification finds that."
_NO_FORMULA = "Operations called by these names keep torch's own derivatives."
_NO_COPIES = "A model that writes into its inputs gets no copies of them, and torch refuses it."
_LESS_SIMPLE = "A pass over a traced graph simplifies less."
_HOOKS = "There is no warning of a hook on a gradient, which inner training does not run."

# Name of torch -> what happens without it.
NAMES: dict[str, str] = {
    "torch._C._functorch.peek_interpreter_stack": _PLAIN,
    "torch.autograd.forward_ad._current_level": _PLAIN,
    "torch.nn.BatchNorm2d._check_input_dim": "A layer takes inputs of any number of dimensions.",
    "torch.nn.Module._forward_pre_hooks": _NO_COPIES,
    "torch.nn.Module._forward_pre_hooks_with_kwargs": _NO_COPIES,
    "torch.Tensor._backward_hooks": _HOOKS,
    "torch.Tensor._post_accumulate_grad_hooks": _HOOKS,
    "torch._dynamo.OptimizedModule._orig_mod": "A compiled model is not refused with advice.",
    "torch._C._functorch.get_inplace_requires_grad_allowed": (
        "A model that marks an activation with `requires_grad_()` is refused by torch."
    ),
    "torch._C._functorch.is_functorch_wrapped_tensor": (
        "A tensor of a finished transform that a model kept in an attribute stays there."
    ),
    "torch._C._set_grad_enabled": _REVERSE,
    "torch._C._set_fwd_grad_enabled": _REVERSE,
    "torch._C._is_fwd_grad_enabled": _REVERSE,
    "torch._C._functorch.get_interpreter_stack": _UNSEEN,
    "torch._C._functorch.CGradInterpreterPtr": _UNSEEN,
    "torch._C._functions": "What `once_differentiable` marks is left out silently, as torch does.",
    "torch._C._nn": _NO_FORMULA,
    "torch._weight_norm": _NO_FORMULA,
    "torch.nn.utils.weight_norm._weight_norm": _NO_FORMULA,
    "torch.utils.checkpoint._checkpoint_impl": "Checkpointing under another name stays on.",
    "torch._decomp.decompositions_for_jvp": _DYNAMO,
    "torch._dynamo.variables.builder": _DYNAMO,
    "torch._dynamo.trace_rules": _DYNAMO,
    "torch._inductor.list_options": "Options that the compiler does not know make it fail.",
    "torch._inductor.utils.clear_caches": (
        "A damaged library in the compiler's cache makes problems run eagerly, after a warning."
    ),
    "torch.fx.experimental.proxy_tensor.get_proxy_mode": (
        "`one_hot` is computed by comparison everywhere, not only while tracing."
    ),
    "torch.fx.experimental.proxy_tensor.make_fx": _EAGER,
    "torch._ops.OpOverload._schema": _EAGER,
    "torch.fx.GraphModule._in_spec": "A traced graph unpacks its tensors as torch does: slower.",
    "torch.utils._python_dispatch.TorchDispatchMode": "A write of an equal value is missed.",
    "torch._foreach_copy_": "What goes into and out of a recording is copied one by one: slower.",
    "torch.Tensor._version": "What one replay of a recording has in place is copied again: slower.",
    "torch.ops.mkldnn._linear_pointwise.default": (
        "Traced matrix products take MKL's kernels, which are slower on processors of AMD."
    ),
    "torch.ops.aten._to_copy": _LESS_SIMPLE,
    "torch.ops.aten._unsafe_view": _LESS_SIMPLE,
    "torch.ops.aten._efficientzerotensor": _LESS_SIMPLE,
}
# The same of libraries that may be missing or not loaded.
NAMES_OF_OTHERS: dict[str, str] = {
    "transformers.pytorch_utils.compile_compatible_method_lru_cache": (
        "Nothing is lost where transformers has no caches for a whole process."
    ),
    "transformers.PreTrainedConfig._attn_implementation": (
        "The table of needs leaves out the attention of a model of transformers."
    ),
    "transformers.PreTrainedConfig._commit_hash": (
        "A card leaves out the commit of a model. transformers saves none from 5.20 on."
    ),
    "datasets.Features._type": "`datasets` reads images as bytes and classes as numbers.",
}


_Ask = Callable[[], Any] | None
_Call = Callable[..., Any] | None


def lookup(path: str) -> Any | None:
    """Return the object that a dotted path names, importing modules; None if it does not exist."""
    root, *rest = path.split(".")
    value: Any = importlib.import_module(root)
    for position, part in enumerate(rest, start=2):
        if not hasattr(value, part):
            with contextlib.suppress(ImportError):
                importlib.import_module(".".join([root, *rest][:position]))
        if not hasattr(value, part):
            return None
        value = getattr(value, part)
    return value


def _optional(name: str) -> Any | None:
    assert name in NAMES
    return lookup(name)


# --- modules and layers --------------------------------------------------------------------------

# Where a module keeps its parameters, buffers and submodules.
MODULE_REGISTRIES = ("_parameters", "_buffers", "_modules")
_NEEDED = (
    *(*MODULE_REGISTRIES, "_non_persistent_buffers_set"),
    *("_save_to_state_dict", "_load_from_state_dict", "_apply"),
)
_missing = [name for name in _NEEDED if not hasattr(nn.Module(), name)]
if _missing:
    raise ImportError(
        f"torch {torch.__version__} has no torch.nn.Module.{_missing[0]}, which dd_plugin needs "
        "to convert layers; install an older torch, or a newer dd_plugin"
    )

# The attribute in which `torch.compile` keeps the module that it has wrapped.
COMPILED_MODULE = "_orig_mod"


def buffers_of(module: nn.Module) -> dict[str, Tensor | None]:
    """Return a module's own buffers by name, None for those that it has without a value."""
    return module._buffers


def submodules_of(module: nn.Module) -> dict[str, nn.Module | None]:
    """Return a module's own submodules by name."""
    return module._modules


def buffers_without_checkpoint(module: nn.Module) -> set[str]:
    """Return the names of a module's own buffers that no ``state_dict`` contains."""
    return module._non_persistent_buffers_set


def check_dimensions(layer: nn.Module, x: Tensor) -> None:
    """Let a stock BatchNorm layer refuse an input with a wrong number of dimensions."""
    check: Callable[[Tensor], None] | None = getattr(layer, "_check_input_dim", None)
    if check is not None:
        check(x)


def input_hooks(module: nn.Module) -> tuple[dict[Any, Any] | None, dict[Any, Any] | None]:
    """Return the hooks that run before a forward, and which take keywords; None if unknown."""
    names = ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs")
    hooks, with_keywords = (getattr(module, name, None) for name in names)
    return hooks, with_keywords


def has_gradient_hook(parameter: Tensor) -> bool:
    """Return whether a hook is registered on the gradient of a parameter."""
    registries = ("_backward_hooks", "_post_accumulate_grad_hooks")
    return any(getattr(parameter, name, None) for name in registries)


# --- modes and transforms ------------------------------------------------------------------------

# The modes of differentiation, read and set for one thread.
set_grad_mode: Callable[[bool], None] | None = _optional("torch._C._set_grad_enabled")
set_forward_mode: Callable[[bool], None] | None = _optional("torch._C._set_fwd_grad_enabled")
get_forward_mode: Callable[[], bool] | None = _optional("torch._C._is_fwd_grad_enabled")
# Owner and name of the function by which all of torch sets the first of them.
GRAD_MODE_SWITCH: tuple[Any, str] = (torch._C, "_set_grad_enabled")
# The function transforms at work.
peek_interpreter_stack: _Ask = _optional("torch._C._functorch.peek_interpreter_stack")
get_interpreter_stack: _Ask = _optional("torch._C._functorch.get_interpreter_stack")
gradient_transform: _Call = _optional("torch._C._functorch.CGradInterpreterPtr")

_levels_are_known = hasattr(forward_ad, "_current_level")
_requires_grad_is_allowed = _optional("torch._C._functorch.get_inplace_requires_grad_allowed")
_is_wrapped = _optional("torch._C._functorch.is_functorch_wrapped_tensor")


def in_transform() -> bool:
    """Return whether a transform or forward-mode differentiation is at work; True if unknown."""
    if peek_interpreter_stack is None or not _levels_are_known:
        return True
    return peek_interpreter_stack() is not None or forward_ad._current_level >= 0


def is_tracing() -> bool:
    """Return whether `torch.jit.trace` is at work; False in a torch that no longer has it."""
    ask: Callable[[], bool] | None = getattr(torch.jit, "is_tracing", None)
    return ask is not None and ask()


def refuses_requires_grad() -> bool:
    """Return whether a transform at work refuses `requires_grad_()`; False if unknown."""
    if peek_interpreter_stack is None or _requires_grad_is_allowed is None:
        return False
    return peek_interpreter_stack() is not None and not _requires_grad_is_allowed()


def is_of_transform(tensor: Tensor) -> bool:
    """Return whether a tensor is a wrapper of a function transform; False if unknown."""
    return _is_wrapped is not None and bool(_is_wrapped(tensor))


# --- operations ----------------------------------------------------------------------------------

# The home of operations that code may call by a native name, or None.
native_nn: Any | None = _optional("torch._C._nn")
# The home of the node behind a `once_differentiable` backward, or None.
native_functions: Any | None = _optional("torch._C._functions")
# Owners and name of the fused `weight_norm`. The module's name is in `torch.nn.utils` a function's.
WEIGHT_NORMS: tuple[tuple[Any, str], ...] = (
    (torch, "_weight_norm"),
    (sys.modules.get("torch.nn.utils.weight_norm"), "_weight_norm"),
)
# Owner and name of what `torch.utils.checkpoint.checkpoint` calls.
CHECKPOINT_IMPLEMENTATION: tuple[Any, str] = (torch.utils.checkpoint, "_checkpoint_impl")

_copy_each: _Call = _optional("torch._foreach_copy_")
_version: Any | None = _optional("torch.Tensor._version")


def operation(name: str) -> Any | None:
    """Return one operation of ``torch.ops.aten``, ``"add.Tensor"``; None if it does not exist."""
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet, None), overload, None)


def operations(*names: str, beside: Iterable[Any] = ()) -> frozenset[Any]:
    """Return those of some operations, by name and ``beside`` the names, that exist.

    A pass over a graph leaves operations that it does not know as they are: slower, and as exact.
    """
    return frozenset(op for op in (*map(operation, names), *beside) if op is not None)


# The conversion to another dtype or device, a view that need not be one, and zeros without memory;
# None for one that does not exist.
TO_COPY: Any | None = operation("_to_copy.default")
UNSAFE_VIEW: Any | None = operation("_unsafe_view.default")
EFFICIENT_ZEROS: Any | None = operation("_efficientzerotensor.default")

# A linear layer by oneDNN: input, weight, bias, and three arguments for what may follow it.
ONEDNN_LINEAR: Any | None = _optional("torch.ops.mkldnn._linear_pointwise.default")


def schema_of(target: Any) -> Any | None:
    """Return the schema of an operation, None of anything else."""
    return getattr(target, "_schema", None)


def copy_all(targets: list[Tensor], sources: list[Tensor]) -> None:
    """Copy each source into its target, of the same shapes; in few kernels on a GPU."""
    if _copy_each is not None and targets:
        _copy_each(targets, sources)
        return
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)


def version_of(tensor: Tensor) -> int | None:
    """Return how often a tensor has been written into; None if it does not tell."""
    try:
        return None if _version is None else _version.__get__(tensor)
    except RuntimeError:  # made in inference mode
        return None


# --- tracing and compiling -----------------------------------------------------------------------


class TracingUnavailableError(RuntimeError):
    """This torch lacks what tracing needs; the engine runs eagerly."""


# The base of contexts that see every operation of a thread; an empty stack of contexts sees none.
_dispatch_mode = _optional("torch.utils._python_dispatch.TorchDispatchMode")
DISPATCH_MODE: Any = _dispatch_mode or contextlib.ExitStack

_make_fx: _Call = _optional("torch.fx.experimental.proxy_tensor.make_fx")
_get_proxy_mode: _Ask = _optional("torch.fx.experimental.proxy_tensor.get_proxy_mode")


def may_be_traced() -> bool:
    """Return whether `make_graph` may be running; True if unknown."""
    return _get_proxy_mode is None or _get_proxy_mode() is not None


def make_fx_of_fakes(function: Callable[..., Any]) -> Callable[..., Any]:
    """Trace tensors without data by `make_fx`; real ones of a closure become constants.

    Raises:
        TracingUnavailableError: this torch has no `make_fx`, or does not tell what is written into.
    """
    if _make_fx is None or schema_of(torch.ops.aten.add.Tensor) is None:
        name = "make_fx" if _make_fx is None else "OpOverload._schema"
        raise TracingUnavailableError(
            f"torch {torch.__version__} has no {name}, which tracing needs"
        )
    try:
        return _make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)
    except TypeError:  # the option is gone; without it a closure must not hold tensors
        return _make_fx(function, tracing_mode="fake")


def takes_a_list(graph: nn.Module) -> bool:
    """Return whether a graph of `make_fx` takes its tensors as one list; False if unknown."""
    return hasattr(graph, "_in_spec")


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
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    build = getattr(sys.modules.get("torch._dynamo.trace_rules"), "get_torch_obj_rule_map", None)
    if build is not None:
        build()


def dynamo_builder() -> ModuleType | None:
    """Return the module in which Dynamo recognizes checkpointing, if it is loaded and does so."""
    module = sys.modules.get("torch._dynamo.variables.builder")
    return module if hasattr(module, "is_utils_checkpoint") else None


def known_inductor_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return those of the options that this torch's compiler has; all where it does not tell."""
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


# --- other libraries -----------------------------------------------------------------------------


def timm_layers() -> ModuleType | None:
    """Return the module of timm's layers; None where no model has imported it."""
    return sys.modules.get("timm.layers")


def torchvision_frozen_norm() -> type[nn.Module] | None:
    """Return torchvision's frozen BatchNorm; None where no model has imported it."""
    return getattr(sys.modules.get("torchvision.ops.misc"), "FrozenBatchNorm2d", None)


def transformers_caches() -> ModuleType | None:
    """Return the module of transformers that has caches for a whole process, if it is loaded."""
    module = sys.modules.get("transformers.pytorch_utils")
    return module if hasattr(module, "compile_compatible_method_lru_cache") else None


def attention_of(model: nn.Module) -> str | None:
    """Return the attention that the configuration of a model of transformers chooses, if any."""
    return getattr(getattr(model, "config", None), "_attn_implementation", None)


def commit_of(config: Any) -> str | None:
    """Return the commit on the Hub that a configuration of transformers is of, if it is known."""
    return getattr(config, "_commit_hash", None)


def note_commit(config: Any, commit: str) -> None:
    """Note the commit in a configuration of transformers, where its loaders look for it."""
    config._commit_hash = commit


def column_type(name: str, **fields: Any) -> dict[str, Any]:
    """Return the type of a column as `datasets` writes it into a Parquet file."""
    return {**fields, "_type": name}
