"""States of networks as flat names, as files hold them, and back.

Used by `networks` for its part of a checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from dd_plugin.bilevel import RunState


def flat(state: RunState) -> list[tuple[str, Tensor]]:
    """The tensors of a state, each with a name made of where it is."""

    def walk(stem: str, tree: Any) -> Iterator[tuple[str, Tensor]]:
        if isinstance(tree, dict):
            for key in tree:
                yield from walk(f"{stem}.{key}", tree[key])
        else:
            yield stem, tree

    trees = zip(state._fields, state, strict=True)
    return [pair for field, tree in trees for pair in walk(field, tree)]


def restored(like: RunState, saved: Mapping[str, Any], stem: str) -> RunState:
    """A state with the structure and order of another, and copies of the tensors saved by name."""

    def walk(name: str, tree: Any) -> Any:
        if isinstance(tree, dict):
            return {key: walk(f"{name}.{key}", value) for key, value in tree.items()}
        return like_saved(saved, name, tree).clone()

    trees = zip(like._fields, like, strict=True)
    return RunState(*(walk(f"{stem}{field}", tree) for field, tree in trees))


def like_saved(saved: Mapping[str, Any], name: str, like: Tensor) -> Tensor:
    """A saved tensor with the dtype and device of another.

    Raises:
        ValueError: there is none of that name and shape.
    """
    found = saved.get(name)
    if not isinstance(found, Tensor) or found.shape != like.shape:
        got = tuple(found.shape) if isinstance(found, Tensor) else "nothing"
        raise ValueError(
            f"the saved networks must have {name} of shape {tuple(like.shape)}, got {got}; they "
            "are of another model or inner optimizer"
        )
    return found.detach().to(like.device, like.dtype)
