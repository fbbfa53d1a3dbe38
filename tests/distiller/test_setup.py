"""What the trainer makes of a configuration, before any work."""

import pytest

from tests.distiller.toy import toy_distiller


@pytest.mark.parametrize("value", [1e300, 1e39, 1e-46])
@pytest.mark.parametrize("step_sizes", ["constant", "shared", "per_step", "per_layer"])
def test_a_step_size_that_the_precision_does_not_hold(tmp_path, value, step_sizes):
    with pytest.raises(ValueError, match=r"`inner_lr` must be a number that float32 can hold"):
        toy_distiller(tmp_path, dtype="float32", inner_lr=value, step_sizes=step_sizes)
