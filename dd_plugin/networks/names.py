"""A network from its name: `timm/NAME`, `transformers/TYPE`, a Hub id, or a local folder.

The one place that knows how models are named, so that every command and configuration spells them
alike. `timm_models` and `hub_models` make them and tell each library the number of classes, the
channels and the size of images. Knows nothing of BatchNorm, data or training; timm and transformers
are imported only when a name asks for them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from dd_plugin.hub_access import local_path
from dd_plugin.networks.errors import ModelLoadError
from dd_plugin.networks.hub_models import TRANSFORMERS_PREFIX, read_hub_model
from dd_plugin.networks.limits import within
from dd_plugin.networks.timm_models import TIMM_PREFIX, timm_factory

__all__ = ["load_model", "load_vision_model", "model_factory"]

_HUB_ID = re.compile(
    r"(?!.*(?:--|\.\.))[A-Za-z0-9][\w.-]{0,95}(?:/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII
)
# No width, depth or number of classes of a real network is larger.
_LARGEST_ARGUMENT = 1 << 20


def load_model(name: str, /, *, pretrained: bool = False, **model_args: Any) -> nn.Module:
    """Make the model that `name` stands for.

    Code from the Hub or from a folder is never run. A model that needs such code is made by you and
    passed as an object, where a name could stand.

    Args:
        name: `timm/NAME` for an architecture of timm (a pretrained tag may follow, as in
            `timm/resnet18.a1_in1k`; `timm/dd_convnet` and `timm/dd_lenet` are among them),
            `transformers/TYPE` for a model type of transformers such as `resnet`, whose fields are
            ``model_args``; otherwise the id of a model on the Hugging Face Hub or a local folder
            with a `config.json`.
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
    name: str, /, *, pretrained: bool = False, **model_args: Any
) -> Callable[[], nn.Module]:
    """Return a function that makes models of one name; files and names are looked up once.

    Args:
        name: As for `load_model`.
        pretrained: As for `load_model`.
        **model_args: As for `load_model`.

    Returns:
        A function that makes a new model each time, as `load_model` would.

    Raises:
        ModelLoadError: As for `load_model`. The returned function raises it, too.
    """
    return factory_from(name, {"pretrained": pretrained, **model_args})


def load_vision_model(
    name: str, *, pretrained: bool = True, revision: str | None = None
) -> tuple[nn.Module, list[str]]:
    """Load a model from the Hub or a folder for its features.

    It is the image classifier of its type, or the bare model where the type has none. Of a type for
    images and text (CLIP, SigLIP) it is the whole model, unless a classifier was saved.

    Args:
        name: The id of a model on the Hub, or a local folder; never `timm/NAME`.
        pretrained: As for `load_model`.
        revision: Branch, tag or commit on the Hub.

    Returns:
        The model, and the names of parameters that its files do not hold, which are random. The
        classifier of a checkpoint without one is among them.

    Raises:
        ModelLoadError: There is no such model, it is not one of images, or its files fail.
    """
    from transformers.utils import logging

    model = read_hub_model(name, {}, revision=revision, for_features=True)
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # a report of the random classifier, which is not used
    try:
        return model.load() if pretrained else (model.random(), [])
    finally:
        logging.set_verbosity(level)


def factory_from(
    name: str,
    model_args: Mapping[str, Any],
    *,
    from_record: bool = False,
    max_parameters: int | None = None,
) -> Callable[[], nn.Module]:
    """Return `model_factory` of a name and arguments that a stranger may have written.

    Args:
        name: As for `load_model`.
        model_args: As for `load_model`; ``pretrained`` may be among them.
        from_record: The name was read from a file, not typed: it is never taken for a path of this
            machine.
        max_parameters: Refuse a larger network before memory is taken for it.

    Raises:
        ModelLoadError: As for `load_model`.
    """
    arguments = {key: value for key, value in model_args.items() if value is not None}
    pretrained = bool(arguments.pop("pretrained", False))
    if from_record:
        check_record(name, arguments)
    build: Callable[[], nn.Module]
    random: Callable[[], nn.Module]
    if name.startswith(TIMM_PREFIX):
        architecture = name.removeprefix(TIMM_PREFIX)
        build = timm_factory(architecture, pretrained, arguments)
        random = timm_factory(architecture, False, arguments) if max_parameters else build
    else:
        model = read_hub_model(name, arguments)
        random = model.random
        build = (lambda: model.load()[0]) if pretrained else random

    def make() -> nn.Module:
        network = build()
        network.train()  # whose value some models do not return
        return network

    return make if max_parameters is None else within(max_parameters, name, make, random)


def check_record(name: str, model_args: Mapping[str, Any]) -> None:
    """Check that a name and arguments from a file lead to nothing on this machine.

    Raises:
        ModelLoadError: They could.
    """
    if name.startswith((TIMM_PREFIX, TRANSFORMERS_PREFIX)):
        return _check_arguments(model_args)
    if not _HUB_ID.fullmatch(name):
        raise ModelLoadError(
            f"the record names the model {name!r:.100}, which is neither timm/NAME nor an id on "
            "the Hub; pass a model yourself"
        )
    if local_path(name) is not None:
        raise ModelLoadError(
            f"the record names the model {name!r} of the Hub, and there is a file or folder of "
            f"that name here; to use it, pass its full path, {str(Path(name).resolve())!r}; to use "
            "the model of the Hub, work in another folder"
        )
    return _check_arguments(model_args)


def _check_arguments(model_args: Mapping[str, Any]) -> None:
    for key, value in model_args.items():
        for number in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(number, (int, float)) and not abs(number) <= _LARGEST_ARGUMENT:
                raise ModelLoadError(
                    f"the record's model argument {key!r:.40} must be at most "
                    f"{_LARGEST_ARGUMENT:,}, got {number!r:.40}; pass a model yourself"
                )
