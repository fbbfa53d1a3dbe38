"""Obstacles to a second derivative in a model, found without running it.

Four things: caches (attention biases kept by eval mode, `functools` caches that may hold
tensors), activation checkpointing that is switched on, references to torch operations taken before
`second_order` could replace them, and code that writes into its inputs. The finders here are used
twice: by `second_order`, which turns what they find into patches, and by `second_order_needs`,
which reports it.

Nothing of timm or transformers is imported; what is needed of them is looked up in `sys.modules`.
"""

from __future__ import annotations

import dis
import functools
import inspect
import sys
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

from torch import Tensor, nn

from dd_plugin.bilevel.foreign_models.patching import Patch
from dd_plugin.private import MODULE_REGISTRIES, buffers_of, input_hooks, is_of_transform

CHECKPOINT_FLAGS = ("grad_checkpointing", "gradient_checkpointing")
_INPUT_HOOK = "dd_plugin copies of inputs"


class ForgetfulDict(dict[Any, Any]):
    """A cache that is always empty, and hands out what was just put in, once.

    Stands in for the attention-bias caches of eval mode, whose code reads `if key not in cache:
    cache[key] = value` and then `return cache[key]`: every call computes its own value, in its own
    transform. A copy or pickle of it is an ordinary empty dictionary.
    """

    def __contains__(self, key: object) -> bool:
        return False

    def __getitem__(self, key: Any) -> Any:
        return self.pop(key)

    def __reduce__(self) -> tuple[type[dict[Any, Any]], tuple[()]]:
        return dict, ()

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[Any, Any]:
        return {}


def attention_bias_caches(module: nn.Module) -> list[str]:
    """Return the names of one module's dictionaries that cache tensors derived from parameters.

    `attention_bias_cache` of timm's and transformers' LeViT and its relatives, and any other
    attribute with "cache" in its name that is a dictionary of tensors.
    """
    return [
        name
        for name, value in vars(module).items()
        if name not in MODULE_REGISTRIES
        and type(value) in (dict, ForgetfulDict)
        and (
            name == "attention_bias_cache"
            or ("cache" in name.lower() and value and _all_tensors(value))
        )
    ]


def _all_tensors(values: dict[Any, Any]) -> bool:
    return all(isinstance(value, Tensor) for value in values.values())


def uncached(function: Any) -> Any | None:
    """Return the function below an `lru_cache`, or below a decorator with one; None without."""
    if isinstance(function, functools._lru_cache_wrapper):
        return function.__wrapped__
    if isinstance(function, FunctionType) and hasattr(function, "__wrapped__"):
        for cell in function.__closure__ or ():
            try:
                content = cell.cell_contents
            except ValueError:  # a cell that was never filled
                continue
            if isinstance(content, functools._lru_cache_wrapper):
                return function.__wrapped__
    return None


def source_classes(model: nn.Module) -> list[type]:
    """Return the classes of a model's modules and their bases, without those of torch."""
    classes: dict[type, None] = {}
    for module in model.modules():
        if type(module) not in classes:
            for cls in type(module).__mro__:
                if cls.__module__.partition(".")[0] not in ("torch", "builtins", "abc", "typing"):
                    classes[cls] = None
    return list(classes)


def source_files(model: nn.Module) -> list[ModuleType]:
    """Return the imported Python modules in which the classes of a model are defined."""
    names = {cls.__module__: None for cls in source_classes(model)}
    return [sys.modules[name] for name in names if name in sys.modules]


def cached_functions(model: nn.Module) -> Iterator[tuple[Any, str, Any]]:
    """Find `functools` caches in a model's classes and source files.

    Yields:
        (owner, name, the same thing without its cache).
    """
    for cls in source_classes(model):
        for name, value in list(vars(cls).items()):
            if isinstance(value, functools.cached_property):
                if issubclass(cls, nn.Module):
                    # A property comes before what an instance has stored already.
                    yield cls, name, property(value.func)
            elif isinstance(value, staticmethod | classmethod):
                plain = uncached(value.__func__)
                if plain is not None:
                    yield cls, name, type(value)(plain)
            elif (plain := uncached(value)) is not None:
                yield cls, name, plain
    for file in source_files(model):
        for name, value in list(vars(file).items()):
            if getattr(value, "__module__", None) == file.__name__:
                plain = uncached(value)
                if plain is not None:
                    yield file, name, plain


def checkpoint_flags(module: nn.Module) -> list[str]:
    """Return the activation checkpointing flags of one module that are on."""
    return [name for name in CHECKPOINT_FLAGS if getattr(module, name, False) is True]


def early_references(model: nn.Module, replaced: dict[int, Any]) -> Iterator[Patch]:
    """Find references to replaced functions that the model itself holds.

    `from torch.nn.functional import scaled_dot_product_attention` in a model's source file, or
    `self.gate = F.hardsigmoid` in one of its modules.

    Args:
        model: the model.
        replaced: id of the native function -> its replacement.
    """
    for file in source_files(model):
        for name, value in list(vars(file).items()):
            if id(value) in replaced:
                yield Patch(vars(file), name, replaced[id(value)])
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if id(value) in replaced:
                yield Patch(vars(module), name, replaced[id(value)])


def _stored(instruction: dis.Instruction) -> tuple[str, ...]:
    """Return the local variables that an instruction sets; Python 3.13 fuses two into one."""
    if not instruction.opname.startswith("STORE_FAST"):
        return ()
    names = instruction.argval
    if isinstance(names, str):
        return (names,)
    return tuple(names) if instruction.opname == "STORE_FAST_STORE_FAST" else (names[0],)


def _arguments_written_into(code: CodeType) -> list[str]:
    """Return arguments that `+=`, `*=`, ... update while they still are the caller's."""
    untouched = set(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])
    written, updates = [], False
    for instruction in dis.get_instructions(code):
        for name in _stored(instruction):
            if updates and name in untouched:
                written.append(name)
            untouched.discard(name)
        updates = instruction.opname == "BINARY_OP" and instruction.argrepr.endswith("=")
    return written


def written_inputs(cls: type) -> list[str]:
    """Return the inputs that the `forward` of a class, not of its bases, may write into.

    Read off the compiled code. An update of a number looks the same; `x.mul_(y)` and `x[i] = y`
    are not seen.
    """
    forward = vars(cls).get("forward")
    function = inspect.unwrap(forward) if callable(forward) else None
    return _arguments_written_into(function.__code__) if isinstance(function, FunctionType) else []


def copy_inputs(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Copy the tensors that a module takes, differentiably: a hook before its forward."""

    def copied(value: Any) -> Any:
        return value.clone() if isinstance(value, Tensor) else value

    return tuple(map(copied, args)), {name: copied(value) for name, value in kwargs.items()}


def model_patches(model: nn.Module, replaced: dict[int, Any]) -> Iterator[Patch]:
    """List what has to be set in a model while it is differentiated twice."""
    for module in model.modules():
        for name in attention_bias_caches(module):
            yield Patch(vars(module), name, ForgetfulDict())
        for name in checkpoint_flags(module):
            yield Patch(vars(module), name, False)
    for owner, name, plain in cached_functions(model):
        yield Patch(owner, name, plain)
    yield from early_references(model, replaced)
    hooks, takes_keywords = input_hooks(model)
    known = hooks is not None and takes_keywords is not None  # the engine's images are copies
    if known and any(written_inputs(cls) for cls in source_classes(model)):
        # At the root only: what the parts of a model pass to each other, they may share.
        yield Patch(hooks, _INPUT_HOOK, copy_inputs)
        yield Patch(takes_keywords, _INPUT_HOOK, True)


def escaped(value: Any) -> bool:
    """Return whether `value` is, or is a small container of, tensors of a functorch transform."""
    if isinstance(value, Tensor):
        return is_of_transform(value)
    if isinstance(value, dict):
        return any(escaped(item) for item in value.values())
    if isinstance(value, list | tuple):
        return any(escaped(item) for item in value)
    return False


def tensor_attributes(model: nn.Module) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return of every module its attributes, its buffers, and copies of both as they are now."""
    return [
        (names, dict(names))
        for module in model.modules()
        for names in (vars(module), buffers_of(module))
    ]


def drop_escaped(before: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    """Put back every attribute that was left holding a tensor of a transform that has ended."""
    for names, old in before:
        for name in list(names):
            if (
                name in MODULE_REGISTRIES
                or names[name] is old.get(name)
                or not escaped(names[name])
            ):
                continue
            if name in old:
                names[name] = old[name]
            else:
                del names[name]
