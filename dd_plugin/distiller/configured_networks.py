"""Models of transformers in a recipe, by their configuration.

Used by `published_names`. An object or a folder has no name that others can use. Its configuration
is plain values, from which transformers makes the same network anywhere: its own code, and never
that of a repository. What does not come out the same is not named.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import nn

from dd_plugin.data import NetworkRecord
from dd_plugin.data.network_records import check_arguments
from dd_plugin.networks.errors import ModelLoadError
from dd_plugin.networks.hub_models import TRANSFORMERS_PREFIX, HubModel, read_hub_model

# Of the classes, which are those of a set; of files and code; and the precision of a file.
_LEFT_OUT = {
    "architectures",
    "auto_map",
    "dtype",
    "id2label",
    "label2id",
    "model_type",
    "num_labels",
    "torch_dtype",
    "transformers_version",
}
# Fields that follow from others, unless they were set.
_DERIVED = {"out_features", "out_indices", "stage_names"}


def configured_record(model: nn.Module | str, arguments: dict[str, Any]) -> NetworkRecord | None:
    """Return the record of a model of transformers; None where it does not make the same network.

    Args:
        model: the network, or the folder of a saved model.
        arguments: of the folder.
    """
    if isinstance(model, nn.Module):
        if not type(model).__module__.startswith("transformers.models."):
            return None
        config, network = model.config, model
    else:
        fields = {key: value for key, value in arguments.items() if key != "pretrained"}
        try:
            read = read_hub_model(model, fields)
            with torch.device("meta"):
                config, network = read.config, read.random()
        except (ImportError, ModelLoadError):
            return None
    return _record_of(config, network)


def _record_of(config: Any, network: nn.Module) -> NetworkRecord | None:
    name = f"{TRANSFORMERS_PREFIX}{config.model_type}"
    fields = _fields_of(config)
    try:
        default = _fields_of(read_hub_model(name, {}).config)
        given = {k: v for k, v in fields.items() if k not in default or default[k] != v}
        given = json.loads(json.dumps(given))
        check_arguments(given)
        for short in ({k: v for k, v in given.items() if k not in _DERIVED}, given):
            read = read_hub_model(name, {**short, "num_classes": config.num_labels})
            if _fields_of(read.config) == fields and _makes(read, network):
                return NetworkRecord(name, short)
    except (ModelLoadError, TypeError, ValueError):
        pass  # no plain values, or none that transformers takes
    return None


def _fields_of(config: Any) -> dict[str, Any]:
    """Return the fields of a configuration that shape its network."""
    fields = config.to_dict().items()
    return {k: v for k, v in fields if k not in _LEFT_OUT and not k.startswith("_")}


def _makes(read: HubModel, network: nn.Module) -> bool:
    """Return whether a configuration makes that network, which may have been converted since."""
    with torch.device("meta"):
        other = read.random()
    if type(other) is not type(network):
        return False
    modules, others = dict(network.named_modules()), dict(other.named_modules())
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    # Layers of conversion are kinds of those that they replace.
    return (
        modules.keys() == others.keys()
        and all(isinstance(modules[name], type(module)) for name, module in others.items())
        and all(shapes.get(name) == t.shape for name, t in other.state_dict().items())
    )
