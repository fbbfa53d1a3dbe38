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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from dd_plugin.hub_access import hub_access, why_no_hub
from dd_plugin.private import commit_of, note_commit
from dd_plugin.text import described

__all__ = ["ModelLoadError", "load_model", "load_vision_model", "model_factory"]

_TIMM_PREFIX = "timm/"
_HUB_ID = re.compile(
    r"(?!.*(?:--|\.\.))[A-Za-z0-9][\w.-]{0,95}(?:/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII
)
_LONGEST_NAME = 200
# No width, depth or number of classes of a real network is larger.
_LARGEST_ARGUMENT = 1 << 20
# No real network has as many modules or parameter tensors.
_MOST_MODULES = 20_000
# Arguments of `load_model` -> the fields of a transformers configuration.
_TRANSFORMERS_NAMES = {
    "num_classes": "num_labels",
    "in_chans": "num_channels",
    "img_size": "image_size",
}


class ModelLoadError(ValueError):
    """No model could be made from the name: it is unknown, or its files cannot be had."""


def load_model(name: str, /, *, pretrained: bool = False, **model_args: Any) -> nn.Module:
    """Makes the model that `name` stands for.

    Code from the Hub or from a folder is never run. A model that needs such code is made by you and
    passed as an object, where a name could stand.

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
    name: str, /, *, pretrained: bool = False, **model_args: Any
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
    return factory_from(name, {"pretrained": pretrained, **model_args})


def load_vision_model(
    name: str, *, pretrained: bool = True, revision: str | None = None
) -> tuple[nn.Module, list[str]]:
    """Load a model from the Hub or a folder for its features.

    It is the image classifier of its type, or the bare model where the type has none. Of a type for
    images and text (CLIP, SigLIP) it is the whole model, unless a classifier was saved.

    Args:
        name: the id of a model on the Hub, or a local folder; never `timm/NAME`.
        pretrained: see `load_model`.
        revision: branch, tag or commit on the Hub.

    Returns:
        The model, and the names of parameters that its files do not hold, which are random. The
        classifier of a checkpoint without one is among them.

    Raises:
        ModelLoadError: there is no such model, it is not one of images, or its files fail.
    """
    from transformers.utils import logging

    missing: list[str] = []
    build, _ = _transformers_factories(
        name, pretrained, {}, revision=revision, for_features=True, missing=missing
    )
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # a report of the random classifier, which is not used
    try:
        return build(), missing
    finally:
        logging.set_verbosity(level)


def factory_from(
    name: str,
    model_args: Mapping[str, Any],
    *,
    from_record: bool = False,
    max_parameters: int | None = None,
) -> Callable[[], nn.Module]:
    """`model_factory` for a name and arguments that may be a stranger's.

    Args:
        name: see `load_model`.
        model_args: see `load_model`; ``pretrained`` may be among them.
        from_record: The name was read from a file, not typed: it is never taken for a path of this
            machine.
        max_parameters: Refuse a larger network before memory is taken for it.

    Raises:
        ModelLoadError: see `load_model`.
    """
    arguments = {key: value for key, value in model_args.items() if value is not None}
    pretrained = bool(arguments.pop("pretrained", False))
    if from_record:
        check_record(name, arguments)
    if name.startswith(_TIMM_PREFIX):
        architecture = name.removeprefix(_TIMM_PREFIX)
        build = _timm_factory(architecture, pretrained, arguments)
        trial = _timm_factory(architecture, False, arguments) if max_parameters else build
    else:
        build, trial = _transformers_factories(name, pretrained, arguments)

    def make() -> nn.Module:
        model = build()
        model.train()  # whose value some models do not return
        return model

    if max_parameters is None:
        return make
    if _fits_on_meta(trial, name, max_parameters):
        return make

    def make_within() -> nn.Module:
        with _at_most(max_parameters, name):
            return make()

    return make_within


def check_record(name: str, model_args: Mapping[str, Any]) -> None:
    """See that a name and arguments out of a file lead to nothing on this machine.

    Raises:
        ModelLoadError: they could.
    """
    if name.startswith(_TIMM_PREFIX):
        return _check_arguments(model_args)
    if not _HUB_ID.fullmatch(name):
        raise ModelLoadError(
            f"the record names the model {name!r:.100}, which is neither timm/NAME nor an id on "
            "the Hub; pass a model yourself"
        )
    if _is(Path.exists, name):
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


def _is(kind: Callable[[Path], bool], name: str) -> bool:
    """Whether a path is there, for texts that can be no path too."""
    try:
        return kind(Path(name))
    except (OSError, ValueError):  # too long, or with a zero in it
        return False


def _fits_on_meta(make: Callable[[], nn.Module], name: str, most: int) -> bool:
    """Make a network without memory to see that it has no more parameters than allowed.

    Returns:
        False if it cannot be made so.

    Raises:
        ModelLoadError: it has too many.
    """
    try:
        with _at_most(most, name), torch.device("meta"):
            make()
    except _TooLargeError:
        raise
    except Exception:  # noqa: BLE001 - some networks cannot be made without memory; `make` says why
        return False
    return True


class _TooLargeError(ModelLoadError):
    """A network is larger than a set may ask for."""


@contextmanager
def _at_most(parameters: int, name: str) -> Iterator[None]:
    """End the making of a network at the layer that makes it too large."""
    modules = numbers = 0

    def count(module: nn.Module, key: str, new: nn.Module | Tensor | None) -> None:
        nonlocal modules, numbers
        modules += 1
        numbers += new.numel() if isinstance(new, Tensor) else 0
        if numbers > parameters or modules > _MOST_MODULES:
            what = (
                f"more than {parameters:,} parameters; if that is meant, raise `max_parameters` "
                "(`--no_limits` on the command line)"
                if numbers > parameters
                else f"more than {_MOST_MODULES:,} layers"
            )
            raise _TooLargeError(f"the model {name!r:.100} of the set has {what}")

    hooks = [
        register_module_buffer_registration_hook(count),
        register_module_parameter_registration_hook(count),
        register_module_module_registration_hook(count),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _timm_factory(
    architecture: str, pretrained: bool, model_args: dict[str, Any]
) -> Callable[[], nn.Module]:
    import timm

    import dd_plugin.convnet  # noqa: F401 - registers its networks with timm

    base, _, tag = architecture.partition(".")
    if len(architecture) > _LONGEST_NAME or not timm.is_model(architecture):
        close = difflib.get_close_matches(base[:_LONGEST_NAME], timm.list_models(), n=3)
        hint = (
            f"close: {', '.join(_TIMM_PREFIX + match for match in close)}"
            if close
            else "timm.list_models() lists all"
        )
        raise ModelLoadError(f"timm has no architecture {base!r:.100}; {hint}")
    if tag and not timm.is_model_pretrained(architecture):
        tags = [known.partition(".")[2] for known in timm.list_pretrained(base)]
        raise ModelLoadError(
            f"timm has no pretrained tag {tag!r} for {base!r}; "
            f"known: {', '.join(tags) if tags else 'none'}"
        )
    taken = dict(model_args)

    def make() -> nn.Module:
        with hub_access() if pretrained else nullcontext():
            return create()

    def create() -> nn.Module:
        try:
            return _create_timm(architecture, pretrained, taken)
        except ModelLoadError:
            raise
        except Exception as error:  # odd arguments fail anywhere in timm's code
            if reason := why_no_hub(error):
                raise ModelLoadError(f"timm could not make {architecture!r}: {reason}") from error
            unknown = _unexpected_argument(error)
            if unknown in taken:
                raise ModelLoadError(
                    f"timm's {architecture!r} takes no argument {unknown!r}; leave it out"
                ) from error
            raise ModelLoadError(
                f"timm could not make {architecture!r}: {described(error)}"
            ) from error

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


def _transformers_factories(
    name: str,
    pretrained: bool,
    model_args: dict[str, Any],
    *,
    revision: str | None = None,
    for_features: bool = False,
    missing: list[str] | None = None,
) -> tuple[Callable[[], nn.Module], Callable[[], nn.Module]]:
    """What makes the model, and what makes it with random weights.

    The names of parameters that the files do not hold are added to ``missing``.
    """
    from transformers import (
        MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
        AutoModel,
        AutoModelForImageClassification,
    )

    is_folder = _is(Path.is_dir, name)
    if is_folder and not (Path(name) / "config.json").is_file():
        raise ModelLoadError(f"the folder {name!r} has no config.json; give a saved model's folder")
    if _is(Path.exists, name) and not is_folder:
        raise ModelLoadError(f"{name!r} is a file; give the folder of a saved model")
    if not is_folder and len(name) > _LONGEST_NAME:
        raise ModelLoadError(
            f"no model {name[:60] + '...'!r}: a name has at most {_LONGEST_NAME} characters, got "
            f"{len(name):,}"
        )
    at = {} if revision is None else {"revision": revision}
    try:
        with hub_access(name):
            config = _read_config(name, at)
    except ModelLoadError:
        raise
    except Exception as error:  # a configuration may hold anything
        _explain_code(name, error)
        raise ModelLoadError(
            f"no model {name!r}: it is not a folder here, and its configuration could not be had "
            f"from the Hub ({described(error)}); for an architecture of timm write timm/NAME"
            if not is_folder
            else f"the folder {name!r} holds no usable model configuration: {described(error)}"
        ) from error
    if not is_folder and (commit := _commit_of(name, revision)):
        # So that all files are of one state, those of the image processor, too: it is looked for
        # by what stands here, as transformers itself has it before version 5.20.
        at = {"revision": commit}
        note_commit(config, commit)
    _configure(config, name, model_args)
    classifies = type(config) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
    if for_features:
        classifies = classifies and not (_sees_text_too(config) and not _was_classifier(config))
        if not classifies:
            _check_sees_images(config, name)
    projects = _with_projection(config) if for_features and not classifies else None
    auto = AutoModelForImageClassification if classifies else AutoModel
    # A head for another number of classes does not fit the saved one, and is drawn anew.
    options = {"ignore_mismatched_sizes": True} if model_args else {}

    def loaded(own: Any) -> tuple[nn.Module, dict[str, Any]]:
        try:
            both: tuple[nn.Module, dict[str, Any]] = (projects or auto).from_pretrained(
                name,
                config=own,
                trust_remote_code=False,
                output_loading_info=True,
                **at,
                **options,
            )
        except OSError as error:
            if reason := why_no_hub(error):
                raise ModelLoadError(f"the weights of {name!r}: {reason}") from error
            raise
        return both

    def make(pretrained: bool) -> nn.Module:
        own = copy.deepcopy(config)
        try:
            if not pretrained:
                random: nn.Module = (
                    auto.from_config(own, trust_remote_code=False)
                    if not projects
                    else projects(own)
                )
                return random
            model: nn.Module
            with hub_access(name):
                model, report = loaded(own)
            if missing is not None:
                missing.extend(report["missing_keys"])
        except ModelLoadError:
            raise
        except Exception as error:  # odd fields fail anywhere in its code
            _explain_code(name, error)
            raise ModelLoadError(
                f"transformers could not make {name!r}: {described(error)}"
            ) from error
        return model

    return lambda: make(pretrained), lambda: make(False)


def _read_config(name: str, at: dict[str, str]) -> Any:
    """Return the configuration of a name, inside of `hub_access`."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=False, **at)
    except OSError as error:
        if reason := why_no_hub(error):
            raise ModelLoadError(
                f"no model {name!r}: it is not a folder here, and {reason}; for an architecture of "
                "timm write timm/NAME"
            ) from error
        raise


def revision_of(model: Any) -> str | None:
    """Return the commit on the Hub that a transformers model was loaded from, where it is known."""
    return commit_of(getattr(model, "config", None))


def _commit_of(name: str, revision: str | None) -> str | None:
    """Return the commit of the configuration that the cache has; None if it does not know."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(name, "config.json", revision=revision)
    commit = Path(path).parent.name if isinstance(path, str) else ""
    return commit if re.fullmatch("[0-9a-f]{40}", commit) else None


def _sees_text_too(config: Any) -> bool:
    return hasattr(config, "vision_config") and hasattr(config, "text_config")


def _with_projection(config: Any) -> Any:
    """Return the class of a vision tower saved with its projection, which no auto class makes."""
    import transformers

    kinds = [
        kind for kind in config.architectures or [] if kind.endswith("VisionModelWithProjection")
    ]
    return getattr(transformers, kinds[0], None) if kinds else None


def _was_classifier(config: Any) -> bool:
    return any("ForImageClassification" in kind for kind in config.architectures or [])


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


def _explain_code(name: str, error: Exception) -> None:
    """Raise our own error where a model asks for its repository's code to be run."""
    if isinstance(error, ValueError) and "trust_remote_code" in str(error):
        raise ModelLoadError(
            f"the model {name!r} needs code from its own repository, which dd_plugin never runs; "
            "if you trust that code, make the model yourself (with trust_remote_code=True) and "
            "pass it as an object, or as a function that makes it"
        ) from error


def _configure(config: Any, name: str, model_args: dict[str, Any]) -> None:
    """Sets the fields of a transformers configuration."""
    for key, value in model_args.items():
        field = _TRANSFORMERS_NAMES.get(key, key)
        if hasattr(config, field) and not callable(getattr(type(config), field, None)):
            if field == "image_size":
                value = _image_size(value)
            try:
                setattr(config, field, value)
            except Exception as error:  # each configuration checks in its own way
                raise ModelLoadError(
                    f"the configuration of {name!r} does not take {field}={value!r:.80}: "
                    f"{described(error)}"
                ) from error
        elif field == "num_channels" and value != 3:
            raise ModelLoadError(
                f"the configuration of {name!r} has no `num_channels`; its model takes colour "
                f"images (`in_chans` 3), got {value}"
            )
        elif key not in _TRANSFORMERS_NAMES:
            close = difflib.get_close_matches(field, config.to_dict(), n=3)
            hint = f"; close: {', '.join(close)}" if close else ""
            raise ModelLoadError(f"the configuration of {name!r} has no field {field!r:.80}{hint}")


def _image_size(value: Any) -> int | list[int]:
    """The size of images as a configuration has it: one number for square ones."""
    sides = list(value) if isinstance(value, (list, tuple)) else [value, value]
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise ModelLoadError(
            f"`img_size` must be a whole number or (height, width), got {value!r:.80}"
        )
    return sides[0] if sides[0] == sides[1] else sides
