"""Networks from names, as users import them; `dd_plugin.networks` makes them."""

from dd_plugin.networks.errors import ModelLoadError
from dd_plugin.networks.names import load_model, load_vision_model, model_factory

__all__ = ["ModelLoadError", "load_model", "load_vision_model", "model_factory"]
