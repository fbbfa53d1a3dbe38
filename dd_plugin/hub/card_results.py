"""The path under which `times_smaller` was published first."""

from dd_plugin.hub.card.results import times_smaller

__all__ = ["times_smaller"]
