"""SyncBatchNorm that normalizes with the batch of its own process, as plain BatchNorm does.

For callers whose processes train different networks: the moments of one network's batch have
nothing to do with another's, and a process that runs fewer networks than the others would leave
them waiting. `variants.py` knows the class as a plain one, `convert.py` gives it to layers.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class LocalSyncBatchNorm(nn.SyncBatchNorm):
    """`torch.nn.SyncBatchNorm` that asks no other process, on any device."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalize ``input (N, C, *)``, see `torch.nn.BatchNorm2d`."""
        if input.size(1) == 0:
            raise ValueError("SyncBatchNorm number of input channels should be non-zero")
        return nn.BatchNorm2d.forward(self, input)


_classes: dict[type[nn.Module], type[Any]] = {nn.SyncBatchNorm: LocalSyncBatchNorm}


def local_class(stock: type[nn.Module]) -> type[Any]:
    """Return the subclass of ``stock`` that calls plain BatchNorm's forward, made once."""
    if issubclass(stock, LocalSyncBatchNorm):
        return stock
    if stock not in _classes:
        namespace = {"__module__": stock.__module__, "__doc__": stock.__doc__}
        bases = (stock, LocalSyncBatchNorm)
        _classes[stock] = type(f"Local{stock.__name__}", bases, namespace)
    return _classes[stock]
