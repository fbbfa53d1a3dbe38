"""Models of transformers, from the Hub or a local folder: which class, configured how.

Used by `names`. `read_hub_model` reads the configuration; a `HubModel` makes models from it.
transformers is imported when a name asks for it, and code from a repository is never run.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from dd_plugin.hub_access import (
    cached_commit,
    hub_access,
    local_path,
    why_no_hub,
)
from dd_plugin.networks.errors import ModelLoadError
from dd_plugin.private import note_commit
from dd_plugin.text import described

__all__ = ["TRANSFORMERS_PREFIX", "HubModel", "read_hub_model"]

# In front of a model type of transformers, such as `resnet`: an architecture without files.
TRANSFORMERS_PREFIX = "transformers/"
_LONGEST_NAME = 200
# Arguments of `load_model` -> the fields of a transformers configuration.
_FIELDS = {"num_classes": "num_labels", "in_chans": "num_channels", "img_size": "image_size"}


@dataclass(frozen=True)
class HubModel:
    """A model of the Hub or a folder whose configuration has been read.

    Attributes:
        name: The id on the Hub, or the folder.
        config: The configuration, with all that was asked for.
        kind: The class whose `from_pretrained` loads it.
        is_auto: True if `kind` is one of transformers' auto classes.
        options: Of `from_pretrained`.
    """

    name: str
    config: Any
    kind: Any
    is_auto: bool
    options: Mapping[str, Any] = field(default_factory=dict)

    def random(self) -> nn.Module:
        """Return a model with random weights.

        Raises:
            ModelLoadError: transformers cannot make it.
        """
        config = copy.deepcopy(self.config)
        try:
            model: nn.Module = (
                self.kind.from_config(config, trust_remote_code=False)
                if self.is_auto
                else self.kind(config)
            )
        except ModelLoadError:
            raise
        except Exception as error:  # odd fields fail anywhere in its code
            raise _explained(error, self.name) from error
        return model

    def load(self) -> tuple[nn.Module, list[str]]:
        """Return a model with its weights, and the names of parameters that no file held.

        Raises:
            ModelLoadError: Its files fail, or transformers cannot make it.
        """
        if self.name.startswith(TRANSFORMERS_PREFIX):
            raise ModelLoadError(
                f"{self.name!r} is an architecture without weights; leave `pretrained` out, or "
                "give the id of a model on the Hub"
            )
        config = copy.deepcopy(self.config)
        try:
            with hub_access(self.name):
                return self._from_files(config)
        except ModelLoadError:
            raise
        except Exception as error:  # odd fields fail anywhere in its code
            raise _explained(error, self.name) from error

    def _from_files(self, config: Any) -> tuple[nn.Module, list[str]]:
        """Load the model, inside of `hub_access`."""
        try:
            model, report = self.kind.from_pretrained(
                self.name,
                config=config,
                trust_remote_code=False,
                output_loading_info=True,
                **self.options,
            )
        except OSError as error:
            if reason := why_no_hub(error):
                raise ModelLoadError(f"the weights of {self.name!r}: {reason}") from error
            raise
        return model, list(report["missing_keys"])


def read_hub_model(
    name: str,
    model_args: Mapping[str, Any],
    *,
    revision: str | None = None,
    for_features: bool = False,
) -> HubModel:
    """Read the configuration of a model, and choose the class for it.

    Args:
        name: The id on the Hub, a folder, or `transformers/TYPE`.
        model_args: Fields of the configuration to replace, by the names of `load_model`.
        revision: Branch, tag or commit on the Hub.
        for_features: The model is to see images. Its logits do not matter.

    Raises:
        ModelLoadError: There is no such model, or it does not take the arguments.
    """
    if name.startswith(TRANSFORMERS_PREFIX):
        config = _config_of_type(name, model_args)
        _configure(config, name, model_args)
        kind, is_auto = _class_for(config, name, for_features=for_features)
        return HubModel(name, config, kind=kind, is_auto=is_auto)
    _check_name(name)
    at = {} if revision is None else {"revision": revision}
    config = _read_config(name, at)
    if local_path(name) is None and (commit := cached_commit(name, revision)):
        # So that all files are of one state, those of the image processor, too: it is looked for
        # by what stands here, as transformers itself has it before version 5.20.
        at = {"revision": commit}
        note_commit(config, commit)
    _configure(config, name, model_args)
    kind, is_auto = _class_for(config, name, for_features=for_features)
    # A head for another number of classes does not fit the saved one, and is drawn again.
    options = {**at, **({"ignore_mismatched_sizes": True} if model_args else {})}
    return HubModel(name, config, kind=kind, is_auto=is_auto, options=options)


def _check_name(name: str) -> None:
    path = local_path(name)
    if path is None and len(name) > _LONGEST_NAME:
        raise ModelLoadError(
            f"no model {name[:60] + '...'!r}: a name has at most {_LONGEST_NAME} characters, got "
            f"{len(name):,}"
        )
    if path is not None and not path.is_dir():
        raise ModelLoadError(f"{name!r} is a file; give the folder of a saved model")
    if path is not None and not (path / "config.json").is_file():
        raise ModelLoadError(f"the folder {name!r} has no config.json; give a saved model's folder")


def _read_config(name: str, at: Mapping[str, str]) -> Any:
    from transformers import AutoConfig

    try:
        with hub_access(name):
            try:
                return AutoConfig.from_pretrained(name, trust_remote_code=False, **at)
            except OSError as error:
                if reason := why_no_hub(error):
                    raise ModelLoadError(
                        f"no model {name!r}: it is not a folder here, and {reason}; for an "
                        "architecture of timm write timm/NAME"
                    ) from error
                raise
    except ModelLoadError:
        raise
    except Exception as error:  # a configuration may hold anything
        if _asks_for_code(error):
            raise _needs_code(name) from error
        raise ModelLoadError(
            f"no model {name!r}: it is not a folder here, and its configuration could not be "
            f"loaded from the Hub ({described(error)}); for an architecture of timm write timm/NAME"
            if local_path(name) is None
            else f"the folder {name!r} holds no usable model configuration: {described(error)}"
        ) from error


def _config_of_type(name: str, model_args: Mapping[str, Any]) -> Any:
    """Return the configuration of a model type of transformers, with these fields."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, AutoConfig

    model_type = name.removeprefix(TRANSFORMERS_PREFIX)
    if model_type not in CONFIG_MAPPING:
        close = difflib.get_close_matches(model_type, CONFIG_MAPPING, n=3)
        hint = f"; close: {', '.join(close)}" if close else ""
        raise ModelLoadError(f"transformers has no model type {model_type!r:.80}{hint}")
    # A wrapper would read another repository for its network.
    if CONFIG_MAPPING[model_type] not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING or (
        model_type == "timm_wrapper"
    ):
        raise ModelLoadError(
            f"the model type {model_type!r} of transformers is no image classifier"
        )
    fields = {key: value for key, value in model_args.items() if key not in _FIELDS}
    try:
        _configure(AutoConfig.for_model(model_type), name, fields)  # refuses unknown fields
        # Fields that others follow from have to be there when it is made.
        return AutoConfig.for_model(model_type, **fields)
    except ModelLoadError:
        raise
    except Exception as error:  # each configuration checks in its own way
        cause = error.__cause__
        raise _explained(cause if isinstance(cause, Exception) else error, name) from error


def _class_for(config: Any, name: str, *, for_features: bool) -> tuple[Any, bool]:
    """Return the class for a configuration, and whether it is an auto class."""
    from transformers import (
        MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
        AutoModel,
        AutoModelForImageClassification,
    )

    classifies = type(config) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
    if for_features:
        classifies = classifies and not (_sees_text_too(config) and not _was_classifier(config))
    if classifies:
        return AutoModelForImageClassification, True
    if for_features:
        _check_sees_images(config, name)
        if (tower := _with_projection(config)) is not None:
            return tower, False
    return AutoModel, True


def _sees_text_too(config: Any) -> bool:
    return hasattr(config, "vision_config") and hasattr(config, "text_config")


def _was_classifier(config: Any) -> bool:
    return any("ForImageClassification" in kind for kind in config.architectures or [])


def _with_projection(config: Any) -> Any:
    """Return the class of a vision tower saved with its projection, which no auto class makes."""
    import transformers

    kinds = [
        kind for kind in config.architectures or [] if kind.endswith("VisionModelWithProjection")
    ]
    return getattr(transformers, kinds[0], None) if kinds else None


def _check_sees_images(config: Any, name: str) -> None:
    """Refuse the bare model of a type that does not take images, before its weights are loaded."""
    from transformers import MODEL_MAPPING

    kind = MODEL_MAPPING.get(type(config), None)
    kind = kind[0] if isinstance(kind, (tuple, list)) else kind
    takes_images = getattr(kind, "main_input_name", None) == "pixel_values"
    if kind is not None and not takes_images and not _sees_text_too(config):
        raise ModelLoadError(
            f"the model {name!r} must be a vision model, got one of type {config.model_type!r}; "
            "give a model of images"
        )


def _explained(error: Exception, name: str) -> ModelLoadError:
    """Return what an error of transformers means, as an error of ours."""
    if _asks_for_code(error):
        return _needs_code(name)
    return ModelLoadError(f"transformers could not make {name!r}: {described(error)}")


def _asks_for_code(error: Exception) -> bool:
    """Return whether a model asks for its repository's code to be run."""
    return isinstance(error, ValueError) and "trust_remote_code" in str(error)


def _needs_code(name: str) -> ModelLoadError:
    return ModelLoadError(
        f"the model {name!r} needs code from its own repository, which dd_plugin never runs; "
        "if you trust that code, make the model yourself (with trust_remote_code=True) and "
        "pass it as an object, or as a function that makes it"
    )


def _configure(config: Any, name: str, model_args: Mapping[str, Any]) -> None:
    """Set the fields of a transformers configuration."""
    for key, value in model_args.items():
        name_of_field = _FIELDS.get(key, key)
        if hasattr(config, name_of_field) and not callable(
            getattr(type(config), name_of_field, None)
        ):
            if name_of_field == "image_size":
                value = _image_size(value)
            try:
                setattr(config, name_of_field, value)
            except Exception as error:  # each configuration checks in its own way
                raise ModelLoadError(
                    f"the configuration of {name!r} does not take {name_of_field}={value!r:.80}: "
                    f"{described(error)}"
                ) from error
        elif name_of_field == "num_channels" and value != 3:
            raise ModelLoadError(
                f"the configuration of {name!r} has no `num_channels`; its model takes color "
                f"images (`in_chans` 3), got {value}"
            )
        elif key not in _FIELDS:
            close = difflib.get_close_matches(name_of_field, config.to_dict(), n=3)
            hint = f"; close: {', '.join(close)}" if close else ""
            raise ModelLoadError(
                f"the configuration of {name!r} has no field {name_of_field!r:.80}{hint}"
            )


def _image_size(value: Any) -> int | list[int]:
    """Return a size of images as a configuration has it: one number for square ones."""
    sides = list(value) if isinstance(value, (list, tuple)) else [value, value]
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise ModelLoadError(
            f"`img_size` must be a whole number or (height, width), got {value!r:.80}"
        )
    return sides[0] if sides[0] == sides[1] else sides
