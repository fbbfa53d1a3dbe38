"""What of a model needs help with second derivatives, as a table, and the name of what failed.

`second_order_needs` looks at classes, flags and attributes and runs nothing; the command line
prints it. `missing_rule_operation` reads torch's error messages; the engine uses it to choose
another way of differentiating and to say which operation made it do so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Literal

import torch
from torch import nn

from dd_plugin.bilevel.foreign_models.formulas import REPLACEMENTS
from dd_plugin.bilevel.foreign_models.inspection import (
    attention_bias_caches,
    cached_functions,
    checkpoint_flags,
    written_inputs,
)
from dd_plugin.private import attention_of

Kind = Literal["operation", "cache", "checkpointing", "input", "unsupported"]

# Operations without rules for which there is no formula here.
_UNSUPPORTED = (
    "ctc_loss",
    "multilabel_margin_loss",
    "roi_align",
    "deform_conv2d",
    "flex_attention",
)
_RECURRENT = (nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell)
_REPLACED_NAMES = frozenset(name for _, name, _ in REPLACEMENTS)


@dataclass(frozen=True)
class SecondOrderNeed:
    """One row of the table.

    Attributes:
        kind: "operation" (replaced by a formula), "cache" (bypassed), "checkpointing" (switched
            off), "input" (may be written into: the model gets copies), or "unsupported" (no help:
            expect an error).
        where: name of the first module concerned, "" for the root.
        what: the operation, cache, flag or input.
        count: number of modules concerned.
    """

    kind: Kind
    where: str
    what: str
    count: int = 1


def _code_names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code_names(constant)


def _called_names(function: FunctionType, seen: set[FunctionType]) -> Iterator[str]:
    """Find names in the code of a function, and of the functions of its file that it names."""
    if function in seen:
        return
    seen.add(function)
    wrapped = getattr(function, "__wrapped__", None)
    if isinstance(wrapped, FunctionType):
        yield from _called_names(wrapped, seen)
    for name in set(_code_names(function.__code__)):
        yield name
        other = function.__globals__.get(name)
        if isinstance(other, FunctionType) and other.__module__ == function.__module__:
            yield from _called_names(other, seen)


def _operations(cls: type[nn.Module]) -> set[str]:
    """Return the replaced or unsupported operations that the code of a module class names."""
    names: set[str] = set()
    for base in cls.__mro__:
        if base is nn.Module:
            break
        for member in vars(base).values():
            function = member.__func__ if isinstance(member, staticmethod | classmethod) else member
            if isinstance(function, FunctionType) and not function.__name__.startswith("__"):
                names.update(_called_names(function, set()))
    if issubclass(cls, nn.MultiheadAttention | nn.TransformerEncoderLayer):
        names.add("scaled_dot_product_attention")
    return names & (_REPLACED_NAMES | set(_UNSUPPORTED))


def _rows(model: nn.Module) -> Iterator[tuple[Kind, str, str]]:
    operations: dict[type[nn.Module], set[str]] = {}
    caches: dict[type, list[str]] = {}
    for owner, name, _ in cached_functions(model):
        if isinstance(owner, type):
            caches.setdefault(owner, []).append(f"functools cache {owner.__name__}.{name}")
        else:
            yield "cache", "", f"functools cache {owner.__name__}.{name}"
    for where, module in model.named_modules():
        cls = type(module)
        if isinstance(module, torch.jit.ScriptModule):
            yield "unsupported", where, "TorchScript module"
            continue
        if isinstance(module, _RECURRENT):
            yield "unsupported", where, f"{cls.__name__}: its fused CUDA kernels"
        if cls not in operations:
            operations[cls] = _operations(cls)
        for name in sorted(operations[cls]):
            if name in _UNSUPPORTED:
                yield "unsupported", where, name
            elif name != "scaled_dot_product_attention" or getattr(module, "fused_attn", True):
                yield "operation", where, name.removeprefix("_")
        for base in cls.__mro__:
            for what in caches.get(base, ()):
                yield "cache", where, what
            if base.__module__.partition(".")[0] != "torch":
                for name in written_inputs(base):
                    yield "input", where, name
        for name in attention_bias_caches(module):
            yield "cache", where, name
        # LeViT as first published computes its biases when eval() is called.
        if hasattr(module, "attention_biases") and hasattr(module, "ab"):
            yield "unsupported", where, "`ab`: biases computed by eval(); call train() first"
        for name in checkpoint_flags(module):
            yield "checkpointing", where, name
    # transformers: attention is chosen by the configuration, not by the class.
    implementation = attention_of(model)
    if implementation == "sdpa":
        yield "operation", "", "scaled_dot_product_attention (attn_implementation='sdpa')"
    elif isinstance(implementation, str) and implementation != "eager":
        yield (
            "unsupported",
            "",
            f"attn_implementation={implementation!r}; use model.set_attn_implementation('sdpa')",
        )


def second_order_needs(model: nn.Module) -> list[SecondOrderNeed]:
    """List what of a model needs help with second derivatives, without running it.

    Operations are found by the names in the source code of the module classes: a row says that
    the code can call the operation, not that this configuration does; an operation called through
    a function of another file is not seen.

    Args:
        model: any model.

    Returns:
        One row per kind and thing, in the order of the model's modules.

    Raises:
        TypeError: `model` is not an `nn.Module`.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be an nn.Module, got {type(model).__name__}")
    places: dict[tuple[Kind, str], list[str]] = {}
    for kind, where, what in _rows(model):
        places.setdefault((kind, what), []).append(where)
    return [
        SecondOrderNeed(kind, modules[0], what, len(modules))
        for (kind, what), modules in places.items()
    ]


_MISSING_RULE = (
    re.compile(r"Trying to use forward AD with '?(?:aten::)?([\w.]+)'? that does not support it"),
    re.compile(r"derivative for '?(?:aten::)?([\w.:]+)'? is not implemented"),
    re.compile(r"double backwards? on '?([\w.]+)'? (?:is )?not supported"),
    re.compile(r"You tried to vmap over (\w+), but it does not have vmap support"),
)
_CUSTOM_FUNCTION = (
    "You must implement the jvp function for custom autograd.Function",
    "it must override the setup_context staticmethod",
    "marked with @once_differentiable",
)


def missing_rule_operation(error: BaseException) -> str | None:
    """Return the operation that has no derivative rule, according to an error of torch.

    Reads the message and those of the errors it was raised from, so errors that `torch.compile`
    wraps are recognized as well.

    Args:
        error: what was raised.

    Returns:
        The operation as torch names it, without "aten::"; "autograd.Function" for a custom
        function, whose name torch does not tell; "an operation that torch does not name" where a
        rule writes into a tangent that is zero; "saved tensor hooks" for activation checkpointing
        or offloading inside of a transform; "assignment to `.data`" and "code that takes values out
        of torch ..." for what no transform allows; None for any other error.
    """
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        message = str(current)
        for pattern in _MISSING_RULE:
            match = pattern.search(message)
            if match:
                return match.group(1).removeprefix("aten::")
        if any(text in message for text in _CUSTOM_FUNCTION):
            return "autograd.Function"
        if "ZeroTensors are immutable" in message:
            return "an operation that torch does not name"
        if "don't yet support saved tensor hooks" in message:
            return "saved tensor hooks"
        if "mutating directly with `.data`" in message:
            return "assignment to `.data`"
        if "Cannot access data pointer of Tensor" in message:
            return "code that takes values out of torch, such as `.numpy()`,"
        current = current.__cause__ or current.__context__
    return None
