"""Fresh networks: from a name, a function or a module, each a function of a seed alone.

First in `evaluation`; the trainer makes its networks here too, so that a network of an evaluation
is, weight for weight, the one that the same seed gave when the set was distilled.
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
    *,
    from_record: bool = False,
    max_parameters: int | None = None,
) -> Callable[[], nn.Module] | None:
    """What makes new networks for some data, or None for a module, which is one.

    Args:
        model_init: a module, a function that makes one, or a name for `load_model`.
        num_classes: logits.
        shape: channels, height and width of the images.
        model_args: more arguments for a name; they go before those of the data.
        from_record: the name is out of a file; see `dd_plugin.networks.names.factory_from`.
        max_parameters: of a network that is made from a name.

    Raises:
        ModelLoadError: no model of that name, or one that is too large.
    """
    if isinstance(model_init, nn.Module):
        return None
    if not isinstance(model_init, str):
        return model_init
    channels, height, width = shape
    of_data = {
        "num_classes": num_classes,
        "in_chans": channels,
        "img_size": height if height == width else (height, width),
    }
    with untouched_generators():
        return factory_from(
            model_init,
            {**of_data, **(model_args or {})},
            from_record=from_record,
            max_parameters=max_parameters,
        )


def made_from(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A new network, which draws as if everything had just been seeded.

    Raises:
        TypeError: the function makes something else.
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
    """One network; of a module, a copy. Arguments are those of `network_maker`."""
    make = network_maker(
        model_init,
        num_classes,
        shape,
        model_args,
        from_record=from_record,
        max_parameters=max_parameters,
    )
    if make is None:
        assert isinstance(model_init, nn.Module)
        return copy_model(model_init)
    return made_from(make, seed)


def learnable_constants(model: nn.Module) -> dict[str, Tensor]:
    """What can be learned about the BatchNorm statistics of a converted model, for all its runs.

    Running means and variances per channel where these are learned, momentum shifts and corrections
    per layer where they are tracked. Nothing for frozen statistics, and for learned ones with
    ``train_with="running"``, which inner training moves as it moves weights.

    Returns:
        Name to tensor, in memory of the model's own.
    """
    names = set(tracking_tensors(model))
    for prefix, layer in converted_layers(model).items():
        if layer.statistics == "learned" and layer.train_with == "batch" and layer.looks_at_batch:
            stem = f"{prefix}." if prefix else ""
            names.update(f"{stem}{name}" for name in layer.present_statistics())
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: t.detach() for name, t in tensors.items() if name in names}
