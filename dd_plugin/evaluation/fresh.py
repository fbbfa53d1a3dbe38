"""The path under which `ModelInit` was published first."""

from dd_plugin.networks.fresh import ModelInit

__all__ = ["ModelInit"]
