"""What frozen backbones complain about: one error and one warning, for every file of this part."""

from __future__ import annotations

__all__ = ["BackboneError", "BackboneWarning"]


class BackboneError(ValueError):
    """A model cannot serve as a frozen backbone."""


class BackboneWarning(UserWarning):
    """Something about a backbone had to be assumed."""
