"""The errors and the warning of networks from names and of frozen backbones."""

from __future__ import annotations

__all__ = ["BackboneError", "BackboneWarning", "ModelLoadError"]


class ModelLoadError(ValueError):
    """No model could be made from the name: it is unknown, or its files cannot be loaded."""


class BackboneError(ValueError):
    """A model cannot serve as a frozen backbone."""


class BackboneWarning(UserWarning):
    """Something about a backbone had to be assumed."""
