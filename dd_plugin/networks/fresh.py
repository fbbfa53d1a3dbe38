"""Fresh networks: from a name, a function or a module, each a function of a seed alone.

The trainer and the evaluation both make their networks here. So one seed gives the same weights in
both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from dd_plugin.bilevel.copying import copy_model
from dd_plugin.bn import converted_layers, tracking_tensors
from dd_plugin.networks.names import factory_from
from dd_plugin.seeds import seeded_generators, untouched_generators

ModelInit = nn.Module | Callable[[], nn.Module] | str


def network_maker(
    model_init: ModelInit,
    num_classes: int,
    shape: tuple[int, int, int],
    model_args: Mapping[str, Any] | None = None,
) -> Callable[[], nn.Module] | None:
    """Return a function that makes new networks for some data; None for a module, which is one.

    Args:
        model_init: A module, a function that makes one, or a name for `load_model`.
        num_classes: Number of logits.
        shape: Channels, height and width of the images.
        model_args: More arguments for a name; they go before those of the data.

    Raises:
        ModelLoadError: There is no model of that name.
    """
    if isinstance(model_init, nn.Module):
        return None
    if not isinstance(model_init, str):
        return model_init
    with untouched_generators():
        return factory_from(model_init, _arguments(num_classes, shape, model_args))


def made_from(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Return a new network, which draws as if everything had just been seeded.

    Raises:
        TypeError: The function makes something else.
    """
    with seeded_generators(seed):
        model = make()
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model_init` must make an nn.Module, got {type(model).__name__} from it")
    return model


def fresh_network(
    model_init: ModelInit,
    seed: int,
    num_classes: int,
    shape: tuple[int, int, int],
    model_args: Mapping[str, Any] | None = None,
    *,
    from_record: bool = False,
    max_parameters: int | None = None,
) -> nn.Module:
    """Return one network; of a module, a copy.

    Args:
        model_init: As for `network_maker`.
        seed: All that the network draws follows from it.
        num_classes: As for `network_maker`.
        shape: As for `network_maker`.
        model_args: As for `network_maker`.
        from_record: The name is from a file; see `dd_plugin.networks.names.factory_from`.
        max_parameters: The limit for a network that is made from a name.

    Raises:
        ModelLoadError: There is no model of that name, or it is too large.
    """
    if isinstance(model_init, nn.Module):
        return copy_model(model_init)
    if not isinstance(model_init, str):
        return made_from(model_init, seed)
    with untouched_generators():
        make = factory_from(
            model_init,
            _arguments(num_classes, shape, model_args),
            from_record=from_record,
            max_parameters=max_parameters,
        )
    return made_from(make, seed)


def _arguments(
    num_classes: int, shape: tuple[int, int, int], model_args: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the arguments of a name for some data."""
    channels, height, width = shape
    return {
        "num_classes": num_classes,
        "in_chans": channels,
        "img_size": height if height == width else (height, width),
        **(model_args or {}),
    }


def learnable_constants(model: nn.Module) -> dict[str, Tensor]:
    """Return what can be learned about the BatchNorm statistics of a converted model.

    Running means and variances per channel where these are learned, momentum shifts and corrections
    per layer where they are tracked. Nothing for frozen statistics, and for learned ones with
    ``train_with="running"``, which inner training moves as it moves weights.

    Returns:
        Name to tensor; the tensors share memory with the model.
    """
    names = set(tracking_tensors(model))
    for prefix, layer in converted_layers(model).items():
        if layer.statistics == "learned" and layer.train_with == "batch" and layer.looks_at_batch:
            stem = f"{prefix}." if prefix else ""
            names.update(f"{stem}{name}" for name in layer.present_statistics())
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: t.detach() for name, t in tensors.items() if name in names}
