"""The two losses of a run.

Made by `distiller`, whose methods they are, and passed on to the networks by `parts`.
"""

from __future__ import annotations

from typing import NamedTuple

from dd_plugin.bilevel.problem import Loss


class Losses(NamedTuple):
    """The inner and the outer loss, and which of them the user wrote.

    Attributes:
        inner: ``(logits, labels) -> scalar`` of inner training.
        outer: the same, of the trained network on real images.
        custom_inner: whether the inner loss is the user's.
        custom_outer: whether the outer loss is the user's.
    """

    inner: Loss
    outer: Loss
    custom_inner: bool
    custom_outer: bool

    @property
    def any_custom(self) -> bool:
        """Whether the user wrote at least one of them."""
        return self.custom_inner or self.custom_outer
