"""In which way the functions of a problem are run, and how their tensors lie in memory.

Below `compile`. A function is traced once for each way that it is run in. On a processor,
convolutions of most sizes take less time with the channels of a pixel beside each other
(``channels_last`` in torch), in bfloat16 much less; around them it depends. Which way is faster is
for `dd_plugin.distiller.auto_compile` to find out; results differ by rounding.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

Compile: TypeAlias = bool | Literal["trace"]


class Way(NamedTuple):
    """One way to run the functions of a problem.

    Attributes:
        compile: see `BilevelProblem`.
        channels_last: see `BilevelProblem`.
    """

    compile: Compile
    channels_last: bool = False


def laid_out(tensor: Tensor, channels_last: bool) -> Tensor:
    """Return a tensor as an argument of a traced function.

    Its strides follow from its shape alone, in dimensions of size 1 too: a compiler that finds
    others compiles once more.
    """
    if not channels_last or tensor.dim() != 4:
        return tensor.contiguous()
    _, c, h, w = tensor.shape
    strides = (h * w * c, 1, w * c, c)
    if tensor.stride() == strides:
        return tensor
    return tensor.contiguous(memory_format=torch.channels_last).as_strided(tensor.shape, strides)
