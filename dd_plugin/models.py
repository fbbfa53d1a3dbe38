"""A network from its name: `timm/NAME`, a Hugging Face Hub id, or a local folder.

The one place that knows how models are named, so that every command and configuration spells them
alike, and how the number of classes, the channels and the size of images are told to each library.
Knows nothing of BatchNorm, data or training; timm and transformers are imported only when a name
asks for them.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from dd_plugin.messages import first_line

_TIMM_PREFIX = "timm/"
# Arguments of `load_model` -> the fields of a transformers configuration.
_TRANSFORMERS_NAMES = {
    "num_classes": "num_labels",
    "in_chans": "num_channels",
    "img_size": "image_size",
}


class ModelLoadError(ValueError):
    """No model could be made from the name: it is unknown, or its files cannot be had."""


def load_model(name: str, *, pretrained: bool = False, **model_args: Any) -> nn.Module:
    """Makes the model that `name` stands for.

    Args:
        name: `timm/NAME` for an architecture of timm (a pretrained tag may follow, as in
            `timm/resnet18.a1_in1k`; `timm/dd_convnet` and `timm/dd_lenet` are among them),
            otherwise the id of a model on the Hugging Face Hub or a local folder with a
            `config.json`.
        pretrained: Load the weights as well. Without it the weights are random and only the
            configuration is read; for timm and for a folder that needs no network.
        **model_args: ``num_classes``, ``in_chans`` (channels of the images) and ``img_size`` (an
            integer or ``(height, width)``) for any model; ``img_size`` is left out where the
            architecture takes images of any size. Others go to timm's `create_model`, or replace
            fields of the transformers configuration. What is None is left out.

    Returns:
        The model, on the CPU, in training mode. From the Hub or a folder it is the image classifier
        of its type, or the bare model where the type has no image classifier.

    Raises:
        ModelLoadError: With the cause and what to do.
    """
    return model_factory(name, pretrained=pretrained, **model_args)()


def model_factory(
    name: str, *, pretrained: bool = False, **model_args: Any
) -> Callable[[], nn.Module]:
    """`load_model` for many models of one name: what can be looked up once is.

    Args:
        name: see `load_model`, as the others.
        pretrained: see `load_model`.
        **model_args: see `load_model`.

    Returns:
        A function that makes a new model each time, as `load_model` would.

    Raises:
        ModelLoadError: see `load_model`; the function that is returned raises it, too.
    """
    given = {key: value for key, value in model_args.items() if value is not None}
    if name.startswith(_TIMM_PREFIX):
        make = _timm_factory(name.removeprefix(_TIMM_PREFIX), pretrained, given)
    else:
        make = _transformers_factory(name, pretrained, given)
    return lambda: make().train()


def _timm_factory(
    architecture: str, pretrained: bool, model_args: dict[str, Any]
) -> Callable[[], nn.Module]:
    import timm

    import dd_plugin.convnet  # noqa: F401 - registers its networks with timm

    base, _, tag = architecture.partition(".")
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(base, timm.list_models(), n=3)
        hint = (
            f"close: {', '.join(_TIMM_PREFIX + match for match in close)}"
            if close
            else "timm.list_models() lists all"
        )
        raise ModelLoadError(f"timm has no architecture {base!r}; {hint}")
    if tag and not timm.is_model_pretrained(architecture):
        tags = [known.partition(".")[2] for known in timm.list_pretrained(base)]
        raise ModelLoadError(
            f"timm has no pretrained tag {tag!r} for {base!r}; "
            f"known: {', '.join(tags) if tags else 'none'}"
        )
    taken = dict(model_args)

    def make() -> nn.Module:
        try:
            return _create_timm(architecture, pretrained, taken)
        except (OSError, RuntimeError, TypeError, ValueError, AssertionError) as error:
            unknown = _unexpected_argument(error)
            if unknown in taken:
                raise ModelLoadError(
                    f"timm's {architecture!r} takes no argument {unknown!r}; leave it out"
                ) from error
            raise ModelLoadError(f"timm could not make {architecture!r}: {error}") from error

    return make


def _create_timm(architecture: str, pretrained: bool, model_args: dict[str, Any]) -> nn.Module:
    """`timm.create_model`; takes ``img_size`` out of ``model_args`` where it is no argument.

    Every architecture of timm that is bound to one size of images has that argument.
    """
    import timm

    try:
        model: nn.Module = timm.create_model(architecture, pretrained=pretrained, **model_args)
    except TypeError as error:
        if _unexpected_argument(error) != "img_size" or "img_size" not in model_args:
            raise
        del model_args["img_size"]
        model = timm.create_model(architecture, pretrained=pretrained, **model_args)
    return model


def _unexpected_argument(error: Exception) -> str | None:
    """The name in Python's message of an argument that a function does not have."""
    found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    return found.group(1) if found and isinstance(error, TypeError) else None


def _transformers_factory(
    name: str, pretrained: bool, model_args: dict[str, Any]
) -> Callable[[], nn.Module]:
    from transformers import (
        MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
        AutoConfig,
        AutoModel,
        AutoModelForImageClassification,
    )

    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise ModelLoadError(f"the folder {name!r} has no config.json; give a saved model's folder")
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ModelLoadError(
            f"no model {name!r}: it is not a folder here, and its configuration could not be had "
            f"from the Hub ({first_line(error)}); for an architecture of timm write timm/NAME"
            if not Path(name).is_dir()
            else f"the folder {name!r} holds no usable model configuration: {first_line(error)}"
        ) from error
    _configure(config, name, model_args)
    classifies = type(config) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
    auto = AutoModelForImageClassification if classifies else AutoModel
    # A head for another number of classes does not fit the saved one, and is drawn anew.
    options = {"ignore_mismatched_sizes": True} if model_args else {}

    def make() -> nn.Module:
        own = copy.deepcopy(config)
        try:
            model: nn.Module = (
                auto.from_pretrained(name, config=own, **options)
                if pretrained
                else auto.from_config(own)
            )
        except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
            raise ModelLoadError(
                f"transformers could not make {name!r}: {first_line(error)}"
            ) from error
        return model

    return make


def _configure(config: Any, name: str, model_args: dict[str, Any]) -> None:
    """Sets the fields of a transformers configuration."""
    for key, value in model_args.items():
        field = _TRANSFORMERS_NAMES.get(key, key)
        if hasattr(config, field):
            if field == "image_size" and not isinstance(value, int):
                value = value[0] if value[0] == value[1] else list(value)
            try:
                setattr(config, field, value)
            except (TypeError, ValueError) as error:
                raise ModelLoadError(
                    f"the configuration of {name!r} does not take {field}={value!r}: "
                    f"{first_line(error)}"
                ) from error
        elif field == "num_channels" and value != 3:
            raise ModelLoadError(
                f"the configuration of {name!r} has no `num_channels`; its model takes colour "
                f"images (`in_chans` 3), got {value}"
            )
        elif key not in _TRANSFORMERS_NAMES:
            close = difflib.get_close_matches(field, config.to_dict(), n=3)
            hint = f"; close: {', '.join(close)}" if close else ""
            raise ModelLoadError(f"the configuration of {name!r} has no field {field!r}{hint}")
