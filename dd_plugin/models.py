"""A network from its name: `timm/NAME`, a Hugging Face Hub id, or a local folder.

The one place that knows how models are named, so that every command and configuration spells them
alike. Knows nothing of BatchNorm, data or training; timm and transformers are imported only when a
name asks for them.
"""

import difflib
from pathlib import Path

from torch import nn

_TIMM_PREFIX = "timm/"


class ModelLoadError(ValueError):
    """No model could be made from the name: it is unknown, or its files cannot be had."""


def load_model(name: str, *, pretrained: bool = False) -> nn.Module:
    """Makes the model that `name` stands for.

    Args:
        name: `timm/NAME` for an architecture of timm (a pretrained tag may follow, as in
            `timm/resnet18.a1_in1k`), otherwise the id of a model on the Hugging Face Hub or a local
            folder with a `config.json`.
        pretrained: Load the weights as well. Without it the weights are random and only the
            configuration is read; for timm and for a folder that needs no network.

    Returns:
        The model, on the CPU, in training mode. From the Hub or a folder it is the image classifier
        of its type, or the bare model where the type has no image classifier.

    Raises:
        ModelLoadError: With the cause and what to do.
    """
    if name.startswith(_TIMM_PREFIX):
        model = _load_timm(name.removeprefix(_TIMM_PREFIX), pretrained)
    else:
        model = _load_transformers(name, pretrained)
    return model.train()


def _load_timm(architecture: str, pretrained: bool) -> nn.Module:
    import timm

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
    try:
        model: nn.Module = timm.create_model(architecture, pretrained=pretrained)
    except (OSError, RuntimeError) as error:
        raise ModelLoadError(f"timm could not make {architecture!r}: {error}") from error
    return model


def _load_transformers(name: str, pretrained: bool) -> nn.Module:
    from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise ModelLoadError(f"the folder {name!r} has no config.json; give a saved model's folder")
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ModelLoadError(
            f"no model {name!r}: it is not a folder here, and its configuration could not be had "
            f"from the Hub ({_first_line(error)}); for an architecture of timm write timm/NAME"
            if not Path(name).is_dir()
            else f"the folder {name!r} holds no usable model configuration: {_first_line(error)}"
        ) from error
    classifies = type(config) in AutoModelForImageClassification._model_mapping
    auto = AutoModelForImageClassification if classifies else AutoModel
    try:
        model: nn.Module = auto.from_pretrained(name) if pretrained else auto.from_config(config)
    except (ImportError, OSError, ValueError) as error:
        raise ModelLoadError(
            f"transformers could not make {name!r}: {_first_line(error)}"
        ) from error
    return model


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
