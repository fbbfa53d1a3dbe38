import pytest

from dd_plugin.bilevel import Full, Last, Random


def test_bounds():
    assert Full().bounds(7, 0) == (0, 7)
    assert Last(3).bounds(7, 0) == (4, 7)


def test_random_ends_everywhere_it_may_and_repeats_itself():
    found = {Random(3).bounds(5, seed) for seed in range(60)}
    assert found == {(0, 3), (1, 4), (2, 5)}
    assert Random(3).bounds(5, 11) == Random(3).bounds(5, 11)


@pytest.mark.parametrize("window", [Last, Random])
def test_a_window_must_fit(window):
    with pytest.raises(ValueError, match="must not be longer than the unroll, got 6 of 5"):
        window(6).bounds(5, 0)
    with pytest.raises(ValueError, match="at least one step, got 0"):
        window(0).bounds(5, 0)
