"""Settings that are dictionaries, and JSON on the command line.

Used by `config`.
"""

from __future__ import annotations

import json
from typing import Any

# Arguments of a model that hold a token. All of `model_args` is published with the set.
_TOKENS = ("token", "use_auth_token", "hub_token", "api_key")


def dictionary(value: Any, name: str) -> dict[str, Any]:
    """Return a setting as a dictionary.

    Args:
        value: a dictionary, one as JSON, or None for an empty one.
        name: of the setting, for the message.

    Raises:
        ValueError: the value is something else.
    """
    value = _from_json(value, name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"`{name}` must be a dictionary, got {value!r}")
    return dict(value)


def model_arguments(value: Any, models: int) -> dict[str, Any] | list[dict[str, Any]]:
    """Return the setting `model_args`: a dictionary for all models, or a list of one for each.

    Args:
        value: a dictionary, a list of dictionaries, either of them as JSON, or None.
        models: the number of models.

    Raises:
        ValueError: the value is something else, a list of another length, or holds a token.
    """
    value = _from_json(value, "model_args")
    if not isinstance(value, (list, tuple)):
        return _without_token(dictionary(value, "model_args"))
    if len(value) != models:
        raise ValueError(
            f"`model_args` must be one dictionary for all models, or a list of {models}, one for "
            f"each model, got a list of {len(value)}"
        )
    listed = [_without_token(dictionary(one, "model_args")) for one in value]
    return listed[0] if models == 1 else listed


def _from_json(value: Any, name: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise ValueError(f"`{name}` must be JSON, got {value!r}: {error}") from error


def _without_token(arguments: dict[str, Any]) -> dict[str, Any]:
    for name in _TOKENS:
        if name in arguments:
            raise ValueError(
                f"`model_args` must not have {name!r}, since they are published with the "
                "distilled set; log in with `hf auth login`, or set HF_TOKEN"
            )
    return arguments
