"""Messages about names that `DistillerConfig` and `Distiller` do not have, and what to write.

Decorates the classes of `config` and `distiller`. Who comes from `transformers.Trainer` writes
``model=`` and ``args=``: `trainer_names` has the answers. Other names get a suggestion.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from dd_plugin.distiller.settings import SECRETS, Settings
from dd_plugin.distiller.trainer_names import ARGUMENTS, ATTRIBUTES, METHODS, SETTINGS
from dd_plugin.text import suggestion, without_secrets

_P = ParamSpec("_P")
_R = TypeVar("_R")
_T = TypeVar("_T")
# What to write instead of a name, from the name and its value.
Answer = Callable[[str, Any], str]
# A longer text is not repeated in a message.
_LONGEST = 60


def answering_settings(kind: type[_T]) -> type[_T]:
    """Decorate a class of settings: an unknown one is answered by what to write instead."""
    owner: Any = kind
    owner.__init__ = _answering(owner.__init__, kind.__name__, "setting", _about_setting)
    return kind


def answering_trainer(kind: type[_T]) -> type[_T]:
    """Decorate a trainer: unknown arguments and attributes are answered by what to write."""
    owner: Any = kind
    owner.__init__ = _answering(owner.__init__, kind.__name__, "argument", _about_argument)
    for name, answers in METHODS.items():
        method = getattr(owner, name)
        named = f"{kind.__name__}.{name}"
        setattr(owner, name, _answering(method, named, "argument", _about_option(method, answers)))
    owner.__getattr__ = _get_unknown
    return kind


def setting_answer(name: str) -> str:
    """Return what to write for a setting that there is not; empty if nothing is known."""
    return SETTINGS.get(name) or suggestion(name, _setting_names())


def check_config(config: Any, model_init: Any) -> None:
    """Check that settings are where `Distiller` takes them.

    Raises:
        TypeError: something else was given for them, or they were given as a network.
    """
    if isinstance(model_init, Settings) or _is_training_arguments(model_init):
        instead = f"write `{_config_for(model_init)}`"
        raise TypeError(
            "`model_init` must be an nn.Module, a function that makes one or a name, got "
            f"{type(model_init).__name__}; {instead}"
        )
    is_network = callable(model_init) or isinstance(model_init, (str, list, tuple))
    if hasattr(model_init, "__getitem__") and not is_network:
        raise TypeError(
            "`model_init` must be an nn.Module, a function that makes one or a name, got "
            f"{type(model_init).__name__}; write `train_dataset=` for the images"
        )
    if config is None or isinstance(config, Settings):
        return
    got = config.__name__ if isinstance(config, type) else type(config).__name__
    if isinstance(config, type) and issubclass(config, Settings):
        got, instead = f"the class {got}", f"write `config={got}()`"
    elif _is_training_arguments(config):
        instead = f"write `{_config_for(config)}`"
    elif isinstance(config, Mapping):
        instead = "write `config=DistillerConfig(**settings)`"
    elif isinstance(config, (str, Path)):
        got = shown("config", config)
        instead = (
            "write `config=DistillerConfig.from_recipe(name)` for a recipe; a YAML file is run by "
            "`dd-plugin distill FILE`"
        )
    else:
        instead = "write `train_dataset=` for the images, and `config=` for the settings"
    raise TypeError(f"`config` must be a DistillerConfig, got {got}; {instead}")


def shown(name: str, value: Any) -> str:
    """Return a value as a message shows it: short ones as they are, the type of others."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if inspect.isroutine(value):
        return f"the function {value.__name__}"
    plain = value is None or isinstance(value, (bool, int, float, str, Path))
    text = without_secrets(repr(value)) if plain and not name.endswith("token") else ""
    return text if 0 < len(text) <= _LONGEST else type(value).__name__


def _answering(
    function: Callable[_P, _R], owner: str, thing: str, answer: Answer
) -> Callable[_P, _R]:
    """Return a function whose message about unknown arguments says what to write instead."""
    known = inspect.signature(function).parameters

    @wraps(function)
    def checked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if unknown := {name: value for name, value in kwargs.items() if name not in known}:
            said = [
                f"no {thing} `{name}`, got {shown(name, value)}; {answer(name, value)}"
                for name, value in unknown.items()
            ]
            raise TypeError(f"`{owner}` has " + ". It has ".join(said))
        if thing == "setting" and any(_is_training_arguments(value) for value in args):
            (first, *_) = [value for value in args if _is_training_arguments(value)]
            raise TypeError(
                f"`{owner}` takes its settings by name, got TrainingArguments; write "
                f"`{_config_for(first).removeprefix('config=')}`"
            )
        return function(*args, **kwargs)

    return checked


def _about_setting(name: str, value: Any) -> str:
    return setting_answer(name) or "`dd-plugin distill --help-all` lists the settings"


def _about_argument(name: str, value: Any) -> str:
    if name in ("args", "training_args", "settings"):
        return f"write `{_config_for(value)}`"
    if name in ARGUMENTS:
        return ARGUMENTS[name]
    if name in _setting_names():
        is_secret = name in SECRETS or shown(name, value) == type(value).__name__
        value_text = "..." if is_secret else shown(name, value)
        return f"it is a setting: write `config=DistillerConfig({name}={value_text})`"
    if name in SETTINGS:
        return f"for `DistillerConfig`: {SETTINGS[name]}"
    known = ["config", "model_init", "train_dataset", "eval_dataset", "inner_loss", "outer_loss"]
    known += ["callbacks", "accelerator"]
    return suggestion(name, known) or f"its arguments are {', '.join(known)}"


def _about_option(method: Callable[..., Any], answers: Mapping[str, str]) -> Answer:
    known = [name for name in inspect.signature(method).parameters if name != "self"]

    def answer(name: str, value: Any) -> str:
        return answers.get(name) or suggestion(name, known) or f"it takes {', '.join(known)}"

    return answer


def _get_unknown(self: Any, name: str) -> Any:
    """Say what to write for an attribute of `transformers.Trainer` (called for missing ones)."""
    kind = type(self)
    if name in ATTRIBUTES and not hasattr(kind, name):
        raise AttributeError(f"`{kind.__name__}` has no attribute `{name}`; {ATTRIBUTES[name]}")
    # Python's own message, or the error of a property.
    return object.__getattribute__(self, name)


def _setting_names() -> set[str]:
    return {field.name for field in fields(Settings)}


def _is_training_arguments(value: Any) -> bool:
    """Whether it is a `transformers.TrainingArguments`, which is not imported for that."""
    return any(kind.__name__ == "TrainingArguments" for kind in type(value).__mro__)


def _config_for(value: Any) -> str:
    """Return the argument that stands for settings: of `TrainingArguments` those that both have."""
    if isinstance(value, Settings):
        return "config="
    if not _is_training_arguments(value):
        return "config=DistillerConfig(...)"
    theirs = {field.name: field.default for field in fields(value)}
    words = []
    for field in fields(Settings):
        name = field.name
        if name in SECRETS or name not in theirs:
            continue
        chosen = getattr(value, name)
        is_plain = type(chosen) in (bool, int, float, str)
        if is_plain and chosen not in (theirs[name], field.default):
            words.append(f"{name}={chosen!r}")
    return f"config=DistillerConfig({', '.join(words) or '...'})"
