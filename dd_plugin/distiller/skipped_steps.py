"""Outer steps that are not finite: each is left out, and a run of nothing else is an error.

Called by `outer_step` for every such step, and by `distiller` at the end of a run.
"""

from __future__ import annotations

import logging
import warnings

from dd_plugin.distiller.callbacks import DistillerState
from dd_plugin.distiller.config import DistillerConfig

logger = logging.getLogger(__name__)


class NonFiniteError(RuntimeError):
    """Outer steps were not finite too many times in a row."""


def skip(position: DistillerState, limit: int) -> None:
    """Count the current step as left out.

    Args:
        position: of the run.
        limit: how many in a row are too many.

    Raises:
        NonFiniteError: there were as many.
    """
    position.skipped_steps += 1
    position.consecutive_skipped += 1
    step = position.global_step
    logger.warning("outer step %d was not finite and is left out", step)
    if position.consecutive_skipped >= limit:
        raise NonFiniteError(
            f"{position.consecutive_skipped} outer steps in a row were not finite (up to step "
            f"{step}); the inner training diverges. Lower `inner_lr` or `step_size_lr`, or "
            "shorten `inner_steps`; the last checkpoint is as it was before"
        )


def check_skipped(position: DistillerState, config: DistillerConfig) -> None:
    """Check that enough steps counted, at the end of a run.

    Warns:
        UserWarning: more than half of the steps were left out.

    Raises:
        NonFiniteError: all of them were.
    """
    skipped, done = position.skipped_steps, position.global_step
    advice = (
        f"the inner training diverges. Lower `inner_lr` (now {config.inner_lr:g}) or "
        "`step_size_lr`, or shorten `inner_steps`"
    )
    if done and skipped >= done:
        raise NonFiniteError(
            f"none of the {done} outer steps was finite, so nothing was learned; {advice}"
        )
    if skipped > done / 2:
        warnings.warn(
            f"{skipped} of {done} outer steps were not finite and left out; {advice}",
            stacklevel=3,
        )
