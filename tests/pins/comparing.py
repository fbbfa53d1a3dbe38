"""What is observed as text that a person can read, and how near another observation is.

Numbers of a tensor are written with ten digits and compared to one part in a million of the
tensor's largest one, on every machine. Beside them stand the checksum of its bytes and the mark of
the machine that computed it: processor, its instructions, version of torch. On a machine with the
same mark the checksum has to be the same too, so there the comparison is to the bit.
"""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

TOLERANCE = 1e-6
_DIGITS = 10


def machine() -> str:
    """The mark of what decides the last bits of a result."""
    known = [torch.__version__, torch.backends.cpu.get_cpu_capability(), platform.machine()]
    processor = Path("/proc/cpuinfo")
    if processor.exists():
        lines = processor.read_text("utf-8", "replace").splitlines()
        kept = ("model name", "flags", "cpu family", "model\t", "stepping", "Features", "CPU part")
        known += sorted({line for line in lines if line.startswith(kept)})
    known.append(torch.__config__.show())
    return hashlib.sha256("\n".join(known).encode()).hexdigest()[:12]


def written(tensor: Tensor) -> dict[str, Any]:
    """A tensor as JSON: kind, checksum, and its numbers, a row of the last dimension per line."""
    tensor = tensor.detach().cpu().contiguous()
    rows = tensor.reshape(-1, tensor.shape[-1]) if tensor.dim() else tensor.reshape(1, 1)
    content = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
    return {
        "kind": f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}",
        "sha256": hashlib.sha256(content).hexdigest()[:16],
        "rows": [" ".join(f"{v:.{_DIGITS}g}" for v in row) for row in rows.tolist()],
    }


def is_tensor(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {"kind", "sha256", "rows"}


def _numbers(tensor: dict[str, Any]) -> list[float]:
    return [float(word) for row in tensor["rows"] for word in row.split()]


def distance(found: dict[str, Any], expected: dict[str, Any]) -> float:
    """The largest difference of two tensors of one kind over the largest expected number."""
    pairs = list(zip(_numbers(found), _numbers(expected), strict=True))
    if any(math.isnan(a) != math.isnan(b) for a, b in pairs):
        return math.inf
    largest = max((abs(b) for _, b in pairs if not math.isnan(b)), default=0.0)
    error = max((abs(a - b) for a, b in pairs if a != b and not math.isnan(a)), default=0.0)
    return error / largest if largest else error and math.inf


def differences(found: Any, expected: Any, *, to_the_bit: bool, path: str = "") -> Iterator[str]:
    """One line for every difference, with where it is."""
    if is_tensor(expected) and is_tensor(found):
        if found["kind"] != expected["kind"]:
            yield f"{path}: {found['kind']}, was {expected['kind']}"
        elif (error := distance(found, expected)) > TOLERANCE:
            yield f"{path}: differs by {error:.1e} of its largest number"
        elif to_the_bit and found["sha256"] != expected["sha256"]:
            yield f"{path}: differs by {error:.1e} of its largest number, by a last bit at least"
    elif isinstance(expected, dict) and isinstance(found, dict):
        for key in [*expected, *(key for key in found if key not in expected)]:
            here = f"{path}.{key}" if path else str(key)
            if key not in found:
                yield f"{here}: is gone, was {expected[key]!r}"
            elif key not in expected:
                yield f"{here}: is new: {found[key]!r}"
            else:
                inner = found[key], expected[key]
                yield from differences(*inner, to_the_bit=to_the_bit, path=here)
    elif isinstance(expected, list) and isinstance(found, list) and len(found) == len(expected):
        for place, inner in enumerate(zip(found, expected, strict=True)):
            yield from differences(*inner, to_the_bit=to_the_bit, path=f"{path}[{place}]")
    elif isinstance(expected, float) and isinstance(found, float):
        if not math.isclose(found, expected, rel_tol=TOLERANCE, abs_tol=1e-12):
            yield f"{path}: {found!r}, was {expected!r}"
    elif found != expected or type(found) is not type(expected):
        yield f"{path}: {found!r}, was {expected!r}"
