"""Whether the outer loss of a run has gone, and stayed, above where it began.

Asked by `callbacks` after every log. Step sizes that grow beyond what the inner training bears end
in images that teach nothing: the loss is finite, so no step is skipped, and it seldom comes back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

# Logged losses that are the beginning, and that have to lie above it.
_BEGINNING, _PATIENCE = 3, 3
# What is above the beginning, and what was below it, by more than its noise.
_ABOVE, _BELOW = 1.05, 0.95


def divergence(history: Sequence[Mapping[str, Any]]) -> str:
    """Return in words how the loss has diverged, at the one log that shows it; otherwise "".

    Args:
        history: the log of the run, with ``step`` and, in some entries, ``outer_loss``.
    """
    logged = [(one["step"], one["outer_loss"]) for one in history if "outer_loss" in one]
    losses = [(step, loss) for step, loss in logged if math.isfinite(loss)]
    beginning, later = losses[:_BEGINNING], losses[_BEGINNING:]
    if len(later) < _PATIENCE:
        return ""
    highest = max(loss for _, loss in beginning)
    above = [loss > _ABOVE * highest for _, loss in later]
    if not all(above[-_PATIENCE:]) or (len(above) > _PATIENCE and above[-_PATIENCE - 1]):
        return ""
    best_step, best = min(losses, key=lambda one: one[1])
    if best > _BELOW * min(loss for _, loss in beginning):
        return ""
    since, now = later[-_PATIENCE][0], losses[-1][1]
    return (
        f"the outer loss is {now:.3g} and has been above its beginning ({highest:.3g}) since step "
        f"{since}, after {best:.3g} at step {best_step}: the run has diverged. It seldom comes "
        f"back; the set of step {best_step} was better"
    )
