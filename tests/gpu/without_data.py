"""A GPU without a GPU: the same code on tensors of the ``meta`` device, which have no data.

What a GPU would be slow or wrong at is seen all the same: operations on tensors of two devices are
an error, and what is counted are operations, which are launches at most, and host reads: values
that Python waits for. Every value that is read is made up: 1, True.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten

META = torch.device("meta")
# Copies from one device to another: the one thing that may see two.
_COPIES = (aten._to_copy.default, aten.copy_.default)
# Without a kernel on the device: they change how a tensor is looked at.
_VIEWS = ("view", "reshape", "expand", "permute", "transpose", "slice", "select", "detach", "alias")


class MixedDevicesError(AssertionError):
    """An operation got tensors of the device and of the host."""


class WithoutData(TorchDispatchMode):
    """While it is entered, `meta` stands for a GPU.

    Attributes:
        operations: of tensors on the device, by name; views left out.
        reads: of the host, by the operation that read.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.reads: Counter[str] = Counter()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Answer what needs data, check and count the rest."""
        kwargs = dict(kwargs or {})
        tensors = list(_tensors((args, kwargs)))
        on_device = [t for t in tensors if t.device == META]
        # A number without dimensions may come along from the host, as on a GPU.
        on_host = [t for t in tensors if t.device != META and t.dim() > 0]
        if on_device and func in _READS:
            self.reads[func._schema.name] += 1
            return _READS[func](*args)
        if func in _COPIES:
            return self._copy(func, args, kwargs)
        if on_device and on_host:
            shapes = [(tuple(t.shape), str(t.device)) for t in tensors]
            raise MixedDevicesError(f"{func} got tensors of two devices: {shapes}")
        if on_device and not func._schema.name.removeprefix("aten::").startswith(_VIEWS):
            self.operations[func._schema.name] += 1
        return func(*args, **kwargs)

    def _copy(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        source = args[1] if func is aten.copy_.default else args[0]
        target = args[0] if func is aten.copy_.default else None
        place = kwargs.get("device") if target is None else target.device
        to_host = source.device == META and place is not None and torch.device(place) != META
        if not to_host:
            self.operations[func._schema.name] += source.device == META
            return func(*args, **kwargs)
        self.reads[func._schema.name] += 1
        if target is not None:
            return target.fill_(1)
        return torch.ones(source.shape, dtype=kwargs.get("dtype") or source.dtype)


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor))


def _number(tensor: Tensor) -> Any:
    return 1.0 if tensor.is_floating_point() else tensor.dtype == torch.bool or 1


_READS: dict[Any, Callable[..., Any]] = {
    aten._local_scalar_dense.default: _number,
    aten.equal.default: lambda *args: True,
    aten.allclose.default: lambda *args: False,
    aten.is_nonzero.default: lambda t: True,
}


class MetaAccelerator(Accelerator):
    """An Accelerator whose device is `meta`."""

    @property
    def device(self) -> torch.device:
        """`meta`."""
        return META
