"""What networks from names and frozen backbones complain about, for every file of this part."""

from __future__ import annotations

__all__ = ["BackboneError", "BackboneWarning", "ModelLoadError"]


class ModelLoadError(ValueError):
    """No model could be made from the name: it is unknown, or its files cannot be loaded."""


class BackboneError(ValueError):
    """A model cannot serve as a frozen backbone."""


class BackboneWarning(UserWarning):
    """Something about a backbone had to be assumed."""
