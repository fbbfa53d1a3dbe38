"""SIGINT and SIGTERM: they are noted, and the run ends after its step.

Used by `distiller`, which saves a checkpoint then.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Self

logger = logging.getLogger(__name__)


class StopSignal:
    """A context manager that notes SIGINT and SIGTERM; a second one acts as usual.

    Attributes:
        name: of the signal that came, or None.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._before: dict[int, Any] = {}

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name
        signal.signal(number, self._before[number])
        logger.warning(
            "%s: ending after this step; a second one ends at once, without a checkpoint", self.name
        )

    def __enter__(self) -> Self:
        self.name = None
        for watched in (signal.SIGINT, signal.SIGTERM):
            # Only the main thread may; a notebook's worker thread goes without.
            with suppress(ValueError):
                self._before[watched] = signal.signal(watched, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()


@contextmanager
def unwinding_on_sigterm() -> Iterator[None]:
    """Let SIGTERM end the process by an exception, so that temporary files are removed.

    For long work before the first step, of which there is no checkpoint.
    """

    def end(number: int, _frame: FrameType | None) -> None:
        logger.warning("%s: ending before the first step", signal.Signals(number).name)
        raise SystemExit(128 + number)

    before: Any = None
    # Only the main thread may; see `StopSignal`.
    with suppress(ValueError):
        before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
