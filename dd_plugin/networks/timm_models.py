"""Models of timm by their names, and what timm's refusals mean.

Used by `names`. timm is imported when a name asks for it; the benchmark networks are made without.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

from torch import nn

from dd_plugin.hub_access import hub_access, why_no_hub
from dd_plugin.networks.benchmark_networks import benchmark_maker
from dd_plugin.networks.errors import ModelLoadError
from dd_plugin.text import described

__all__ = ["TIMM_PREFIX", "timm_factory"]

TIMM_PREFIX = "timm/"
_LONGEST_NAME = 200


def timm_factory(
    architecture: str, pretrained: bool, model_args: Mapping[str, Any]
) -> Callable[[], nn.Module]:
    """Return a function that makes models of an architecture.

    Args:
        architecture: timm's name, which may end in a pretrained tag.
        pretrained: Load the weights.
        model_args: Arguments of `timm.create_model`.

    Raises:
        ModelLoadError: timm has no such architecture or tag. The returned function raises it where
            timm cannot make the model.
    """
    arguments = dict(model_args)
    benchmark = None if pretrained else benchmark_maker(architecture, arguments)
    if benchmark is None:
        import dd_plugin.networks.convnet  # noqa: F401 - registers its networks with timm

        _check_known(architecture)

    def make() -> nn.Module:
        with hub_access() if pretrained else nullcontext():
            try:
                return benchmark() if benchmark else _create(architecture, pretrained, arguments)
            except ModelLoadError:
                raise
            except Exception as error:  # odd arguments fail anywhere in timm's code
                raise _explained(error, architecture, arguments) from error

    return make


def _check_known(architecture: str) -> None:
    import timm

    base, _, tag = architecture.partition(".")
    if len(architecture) > _LONGEST_NAME or not timm.is_model(architecture):
        close = difflib.get_close_matches(base[:_LONGEST_NAME], timm.list_models(), n=3)
        hint = (
            f"close: {', '.join(TIMM_PREFIX + match for match in close)}"
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


def _create(architecture: str, pretrained: bool, model_args: dict[str, Any]) -> nn.Module:
    """Call `timm.create_model`; take ``img_size`` out of ``model_args`` where it is no argument.

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


def _explained(
    error: Exception, architecture: str, model_args: Mapping[str, Any]
) -> ModelLoadError:
    """Return what an error of timm's means, as an error of ours."""
    if reason := why_no_hub(error):
        return ModelLoadError(f"timm could not make {architecture!r}: {reason}")
    unknown = _unexpected_argument(error)
    if unknown in model_args:
        return ModelLoadError(
            f"timm's {architecture!r} takes no argument {unknown!r}; leave it out"
        )
    return ModelLoadError(f"timm could not make {architecture!r}: {described(error)}")


def _unexpected_argument(error: Exception) -> str | None:
    """Return the name of the unknown argument in Python's message, None in any other message."""
    match = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    return match.group(1) if match and isinstance(error, TypeError) else None
