"""Every two choices of the engine together, against the whole graph; the product is in `grid`."""

from itertools import product

import pytest

from tests.bilevel import grid
from tests.bilevel.grid import COVERING, OPTIONS, SLOW, TOLERANCE


def _id(case):
    return ", ".join(case)


def test_every_two_values_occur_together():
    # Counted by hand here, not by what made the selection.
    together = {(a, b) for case in COVERING for a, b in product(enumerate(case), repeat=2)}
    columns = list(enumerate(OPTIONS.values()))
    for (i, first), (j, second) in product(columns, repeat=2):
        if i != j:
            for a, b in product(first, second):
                assert ((i, a), (j, b)) in together
    # No fewer cases could do: every optimizer with every policy.
    assert len(COVERING) >= len(OPTIONS["optimizer"]) * len(OPTIONS["policy"])
    # What is left to the slow tests is compiled models, each of which runs eagerly here.
    assert all(case[-1] == "compiled" for case in SLOW)


@pytest.mark.parametrize("case", [c for c in COVERING if c not in SLOW], ids=_id)
def test_gradients_equal_those_of_the_whole_graph(case):
    ((_, error, where),) = grid.errors([case])
    assert error < TOLERANCE, where


@pytest.mark.slow
@pytest.mark.parametrize("case", SLOW, ids=_id)
def test_gradients_of_compiled_models_equal_those_of_the_whole_graph(case):
    ((_, error, where),) = grid.errors([case])
    assert error < TOLERANCE, where


def test_the_command_keeps_its_results(tmp_path, capsys):
    chosen = ["--all", "--problem=closed form", "--optimizer=sgd", "--policy=stock tracked"]
    files = ["--json", str(tmp_path / "grid.json")]
    small = ["--method=mixed", "--storage=device", "--path=eager"]
    assert grid.main([*chosen, *small, *files, "--window=full"]) == 0
    first = grid.stored(tmp_path / "grid.json")
    assert [case[3] for case in first] == ["full"]
    # A result of an earlier run is not computed again, so a wrong one shows.
    spoilt = dict.fromkeys(first, 0.5)
    grid.store(tmp_path / "grid.json", spoilt)
    assert grid.main([*chosen, *small, *files, "--window", "full", "last"]) == 1
    assert len(grid.stored(tmp_path / "grid.json")) == 2
    assert "2 cases, the worst error 5.0e-01" in capsys.readouterr().out
