"""Whose turn it is among several networks."""

import pytest

from dd_plugin.distiller.turns import in_turn
from tests.distiller.toy import Small, head_distiller


@pytest.mark.parametrize("count", [2, 3, 5])
def test_every_network_has_one_turn_in_a_round(count):
    turns = [in_turn(count, 4, turn) for turn in range(20 * count)]
    rounds = [tuple(turns[i : i + count]) for i in range(0, len(turns), count)]
    assert all(sorted(one) == list(range(count)) for one in rounds)
    assert len(set(rounds)) > 1
    assert turns != [in_turn(count, 5, turn) for turn in range(20 * count)]


def test_every_backbone_has_its_turn(tmp_path):
    run = head_distiller(tmp_path, [Small(3), Small(4), Small(5)])
    chosen = [run.head.choice(step) for step in range(30)]
    assert all(sorted(chosen[i : i + 3]) == [0, 1, 2] for i in range(0, 30, 3))
    assert len({tuple(chosen[i : i + 3]) for i in range(0, 30, 3)}) > 1
