"""Average pooling in operations that are fast on CPU, however often they are differentiated.

Beside `formulas`, whose operations lack a derivative. This one has them all, but torch's kernel for
it takes any window and is not vectorized on CPU (2.14 and 2.15), nor is its gradient. Where windows
tile the input, `second_order` puts the function below in its place. It adds neighboring rows, then
neighboring columns by a product with a small matrix, and its gradient is the transposed product.
On one core 10 x 32 x 32 x 32 values take 0.2 ms forward and 0.3 ms back; the kernels take 0.6 and
0.7. With channels last the kernel is vectorized, and is used.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dd_plugin.private import may_be_traced

_native = F.avg_pool2d

# With wider rows the product, whose matrix is mostly zeros, takes longer than the kernel.
_WIDEST_ROW = 128
# Eager operations on fewer values than that take no longer by the kernel than to be called.
_FEW = 1 << 16


def avg_pool2d(
    input: Tensor,
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] | None = None,
    padding: int | tuple[int, ...] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """`torch.nn.functional.avg_pool2d`: (N, C, H, W) or (C, H, W)."""
    kernel = _pair(kernel_size)
    tiles = (
        kernel == (kernel if stride is None or stride == () else _pair(stride))
        and _pair(padding) == (0, 0)
        and divisor_override is None
        and input.dim() in (3, 4)
        and all(size % k == 0 for size, k in zip(input.shape[-2:], kernel, strict=True))
    )
    if not tiles or not _pays(input):
        return _native(
            input,
            kernel_size,
            stride,
            padding,
            ceil_mode=ceil_mode,
            count_include_pad=count_include_pad,
            divisor_override=divisor_override,
        )
    return _tiles_averaged(input, kernel)


def _pays(input: Tensor) -> bool:
    """Whether there is an input for which `_tiles_averaged` is the faster way, and as exact."""
    return (
        input.device.type == "cpu"
        and input.dtype in (torch.float32, torch.float64)
        and 0 < input.shape[-1] <= _WIDEST_ROW
        and not _has_channels_last(input)
        and (input.numel() > _FEW or may_be_traced())
        # It would round the factors of the product.
        and not torch.is_autocast_enabled("cpu")
    )


def _has_channels_last(input: Tensor) -> bool:
    return input.dim() == 4 and input.shape[1] > 1 and input.stride(1) == 1


def _tiles_averaged(x: Tensor, kernel: tuple[int, int]) -> Tensor:
    """The mean of each tile."""
    k_h, k_w = kernel
    rows = x
    if k_h > 1:
        first, *others = x.unflatten(-2, (-1, k_h)).unbind(-2)
        rows = sum(others, first)
    columns = torch.eye(x.shape[-1] // k_w, dtype=x.dtype, device=x.device) / (k_h * k_w)
    return rows @ columns.repeat_interleave(k_w, 0)


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])
