"""A bar over few pieces of work that take long: how many are done, and how long the rest takes.

Used by `evaluating` for networks and by `way_trial` for steps. One of them may take a minute, so
the time on the bar goes on by itself meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Final

# Seconds between two movements of the time on the bar.
_TICK: Final = 2.0


class MovingBar:
    """A progress bar, which is gone afterwards; a context manager.

    Args:
        costs: of the pieces, in any unit.
        words: what is said, with ``{done}`` and ``{all}`` for the numbers of pieces.
        shown: whether there is a bar at all.
        tick: seconds between two movements of the time.
    """

    def __init__(
        self, costs: Sequence[float], words: str, *, shown: bool, tick: float = _TICK
    ) -> None:
        self._template = words
        self._costs, self._shown, self._tick = costs, shown and bool(costs), tick
        self._bar: Any = None
        self._done = 0
        self._ended = threading.Event()
        self._ticking: threading.Thread | None = None

    def __enter__(self) -> MovingBar:
        """Show the bar."""
        if not self._shown:
            return self
        from tqdm.auto import tqdm

        with suppress(OSError):  # a full disk under the file that stderr goes to
            self._bar = tqdm(
                total=sum(self._costs),
                desc=self._words(),
                leave=False,
                bar_format="{desc}: {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}]",
            )
            self._ticking = threading.Thread(target=self._keep_moving, daemon=True)
            self._ticking.start()
        return self

    def add(self) -> None:
        """Note that the next piece is done."""
        cost, self._done = self._costs[self._done], self._done + 1
        if self._bar is not None:
            with suppress(OSError):
                self._bar.set_description_str(self._words(), refresh=False)
                self._bar.update(cost)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove the bar."""
        self._ended.set()
        if self._ticking is not None:
            self._ticking.join()
        if self._bar is not None:
            with suppress(OSError):
                self._bar.close()

    def _words(self) -> str:
        return self._template.format(done=self._done, all=len(self._costs))

    def _keep_moving(self) -> None:
        while not self._ended.wait(self._tick):
            with suppress(OSError):
                self._bar.refresh()
