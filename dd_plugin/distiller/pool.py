"""The pool of partly trained networks from which inner runs start with ``init="pool"``.

Used by `networks`. Inner training goes on where an earlier outer step left a network, so that the
synthetic images are learned for all of a long training and not for its beginning alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from dd_plugin.bilevel import RunState
from dd_plugin.bilevel.step_values import leaves_of
from dd_plugin.files import flat, restored
from dd_plugin.seeds import Purpose, mix


class Member(NamedTuple):
    """One network of a pool: where its training is, and how many inner steps it has had."""

    state: RunState
    age: int


# By the index of the network in an outer step, and the slot of the pool that it came from.
Members = dict[tuple[int, int], Member]


class Pool:
    """Partly trained networks, some for each index of an outer step.

    Networks of one outer step never share a member, in whichever process they are.

    Args:
        size: members for each index.
        max_age: inner steps after which a member is retired and a fresh network takes its place.
        seed: decides which member a step takes, and its first weights.

    Raises:
        ValueError: size or age is less than 1.
    """

    def __init__(self, size: int, max_age: int, seed: int) -> None:
        if size < 1 or max_age < 1:
            raise ValueError(
                f"`pool_size` and `max_age` must be at least 1, got {size} and {max_age}"
            )
        self._size, self._max_age, self._seed = size, max_age, seed
        self._members: Members = {}
        self._taken: dict[int, tuple[int, int]] = {}

    @property
    def members(self) -> Members:
        """The networks that have been taken at least once."""
        return self._members

    def take(self, outer_step: int, index: int, fresh: Callable[[int], RunState]) -> RunState:
        """Return the state from which network ``index`` of an outer step starts.

        Args:
            outer_step: from 0.
            index: from 0, over all processes.
            fresh: the state of a fresh network, by its seed.
        """
        slot = mix(self._seed, Purpose.POOL_SLOT, outer_step, index) % self._size
        member = self._members.get((index, slot))
        if member is None or member.age >= self._max_age:
            state = fresh(mix(self._seed, Purpose.POOL_MEMBER, outer_step, index))
            member = Member(state, 0)
            self._members[index, slot] = member
        self._taken[index] = (slot, member.age)
        return member.state

    def age(self, index: int) -> int:
        """Return the inner steps that the network last taken for an index had had."""
        return self._taken.get(index, (0, 0))[1]

    def give_back(self, index: int, state: RunState, age: int) -> bool:
        """Put a network back where it was taken, unless its state is not finite.

        Args:
            index: as for `take`.
            state: where its training is now, in memory that the pool may keep.
            age: inner steps that it has had in all.

        Returns:
            Whether it was kept.

        Raises:
            ValueError: no network was taken for this index.
        """
        if index not in self._taken:
            raise ValueError(f"no network was taken for index {index}; call `take` first")
        slot, _ = self._taken.pop(index)
        if not _is_finite(state):
            self._members.pop((index, slot), None)
            return False
        self._members[index, slot] = Member(state, age)
        return True

    def replace(self, members: Members) -> None:
        """Take other members, such as those of a checkpoint, for all that there were."""
        self._members, self._taken = members, {}


def pool_entries(members: Members) -> dict[str, Tensor | int]:
    """Return the entries of a checkpoint for the members of a pool, name to tensor or integer."""
    saved: dict[str, Tensor | int] = {}
    for (index, slot), member in members.items():
        stem = f"pool.{index}.{slot}."
        saved[f"{stem}age"] = member.age
        saved |= {f"{stem}{name}": t for name, t in flat(member.state)}
    return saved


def members_from(saved: Mapping[str, Tensor | int], like: RunState) -> Members:
    """Return the members of a pool from the entries of a checkpoint; see `pool_entries`.

    Args:
        saved: all entries for networks; those of other names are left out.
        like: a state of the same model and inner optimizer.

    Raises:
        ValueError: a member is incomplete, or belongs to another model or inner optimizer.
    """
    places = {
        (int(index), int(slot))
        for index, slot in (name.split(".")[1:3] for name in saved if name.startswith("pool."))
    }
    members = {}
    for index, slot in sorted(places):
        stem = f"pool.{index}.{slot}."
        age = saved.get(f"{stem}age")
        if not isinstance(age, int):
            raise ValueError(f"the saved networks have no whole number {stem}age")
        members[index, slot] = Member(restored(like, saved, stem), age)
    return members


def _is_finite(state: RunState) -> bool:
    leaves = [t for t in leaves_of(state) if t.is_floating_point()]
    return bool(torch.stack([t.isfinite().all() for t in leaves]).all())
