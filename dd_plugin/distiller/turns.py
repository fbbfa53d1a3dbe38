"""Whose turn it is: which of several networks an outer step works with.

Used by `architectures` for networks that are trained from scratch and by `head_course` for frozen
ones, so that both share the same order.
"""

from __future__ import annotations

import torch

from dd_plugin.seeds import Purpose, mix


def in_turn(count: int, seed: int, turn: int) -> int:
    """Return which of ``count`` networks has its turn.

    In each round every network has one turn, in an order that the seed decides. No process, and no
    step before this one, has a say in it.

    Args:
        count: how many networks there are.
        seed: of the run.
        turn: the number of the inner run, over all outer steps and processes.
    """
    generator = torch.Generator().manual_seed(mix(seed, Purpose.TURNS, turn // count))
    return int(torch.randperm(count, generator=generator)[turn % count])
