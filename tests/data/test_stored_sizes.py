"""`dd_plugin.data.stored_sizes`: in which sizes images can be stored."""

import pytest

from dd_plugin.data.stored_sizes import check_factor, level_sizes


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_a_factor_divides_the_size(factor):
    check_factor(8, 12, factor)


@pytest.mark.parametrize("factor", [0, 3, 8])
def test_a_factor_that_does_not(factor):
    with pytest.raises(ValueError, match=f"8 x 12, got {factor}; choose another"):
        check_factor(8, 12, factor)


def test_levels_are_halved_upwards_from_four_rows():
    assert level_sizes(16, 24) == [(4, 6), (8, 12), (16, 24)]
    assert level_sizes(16, 24, 1) == [(16, 24)]
    assert level_sizes(9, 9, 2) == [(5, 5), (9, 9)]


def test_too_many_levels():
    # 8, 4, 2, 1
    with pytest.raises(
        ValueError, match="from 1 to 4 for images of 8 x 8, got 5; leave it out for 2"
    ):
        level_sizes(8, 8, 5)
