"""The random numbers of a model, drawn by the engine: where they come from, and what was drawn.

Below `replay`, whose operations draw here. Every draw of a model is explicit: it comes from a
generator that belongs to the step, by shape alone and in the order of the calls. A compiled step
gets the numbers as inputs instead, from `predraw`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dd_plugin.seeds import seed_global_generators

Kind = Literal["uniform", "normal"]


@dataclass(frozen=True)
class DrawSpec:
    """The kind and shape of one draw: numbers uniform on [0, 1), or standard normal."""

    kind: Kind
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def draw(self, generator: torch.Generator, copies: int | None = None) -> Tensor:
        """Draw the numbers; with ``copies``, that many along a new first dimension."""
        shape = self.shape if copies is None else (copies, *self.shape)
        make = torch.rand if self.kind == "uniform" else torch.randn
        return make(shape, generator=generator, dtype=self.dtype, device=self.device)


class Draws:
    """The source of a model's random numbers during one call.

    Args:
        seed: of the generators, one per device.
        supplied: numbers to hand out instead, in order.
    """

    def __init__(self, seed: int = 0, supplied: Sequence[Tensor] | None = None) -> None:
        self.seed = seed
        self.supplied = None if supplied is None else list(supplied)
        self.specs: list[DrawSpec] = []
        self._generators: dict[torch.device, torch.Generator] = {}

    def generator(self, device: torch.device) -> torch.Generator:
        """Return the generator of this call on a device."""
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self.seed)
        return self._generators[device]

    def draw(
        self, kind: Kind, shape: Sequence[int], dtype: torch.dtype, device: torch.device
    ) -> Tensor:
        """Return the next numbers.

        Raises:
            RuntimeError: the model draws others than those that were supplied.
        """
        if dtype in (torch.float16, torch.bfloat16) or not dtype.is_floating_point:
            dtype = torch.float32  # eight bits of a random number would not be uniform
        spec = DrawSpec(kind, tuple(shape), dtype, torch.device(device))
        index = len(self.specs)
        self.specs.append(spec)
        if self.supplied is None:
            with _native():
                return spec.draw(self.generator(spec.device))
        if index >= len(self.supplied) or self.supplied[index].shape != spec.shape:
            raise RuntimeError(
                "the model drew other random numbers than in its first run "
                f"(draw {index}: {spec}); it has a control flow that changes from step to step, "
                "use compile=False"
            )
        return self.supplied[index]


def predraw(specs: Sequence[DrawSpec], seed: int) -> list[Tensor]:
    """Return the numbers that a `Draws` with this seed gives for some draws."""
    draws = Draws(seed)
    return [draws.draw(s.kind, s.shape, s.dtype, s.device) for s in specs]


# Per thread: what draws elsewhere while a model runs has nothing to do with it.
_current: ContextVar[Draws | None] = ContextVar("dd_plugin_draws", default=None)
_native_calls: ContextVar[bool] = ContextVar("dd_plugin_native_draws", default=False)


@contextlib.contextmanager
def drawing_from(draws: Draws | None) -> Iterator[None]:
    """Let the replaced operations draw from ``draws``; needs `replayed` around it."""
    before = _current.set(draws)
    try:
        if draws is not None:
            # What draws by other means (Python's and NumPy's generators, kernels of torch) gets the
            # same seed each time, a replay as long as it runs under the same transforms.
            seed_global_generators(draws.seed)
        yield
    finally:
        _current.reset(before)


@contextlib.contextmanager
def _native() -> Iterator[None]:
    before = _native_calls.set(True)
    try:
        yield
    finally:
        _native_calls.reset(before)


def active_draws(generator: object = None) -> Draws | None:
    """Return where a replaced operation draws from, None where it is to do what torch does.

    Args:
        generator: of the call; one that the model passes is left to torch.
    """
    return _current.get() if generator is None and not _native_calls.get() else None
