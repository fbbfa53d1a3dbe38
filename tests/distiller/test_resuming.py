"""`dd_plugin.distiller.resuming`: more steps are taken over where the schedule has no end.

How runs go on from checkpoints is tested in `test_checkpoint`.
"""

import pytest

from dd_plugin.distiller.callbacks import DistillerState
from dd_plugin.distiller.resuming import take_max_steps
from tests.distiller.toy import toy_config


@pytest.mark.parametrize("schedule", ["constant", "constant_with_warmup"])
def test_an_endless_schedule_takes_any_number_of_steps(tmp_path, schedule):
    position = DistillerState(max_steps=4)
    take_max_steps(position, toy_config(tmp_path, max_steps=9, lr_scheduler_type=schedule), 4)
    assert position.max_steps == 9


def test_a_schedule_that_ends_with_the_run_does_not(tmp_path):
    position = DistillerState(max_steps=4)
    config = toy_config(tmp_path, max_steps=4, lr_scheduler_type="cosine")
    take_max_steps(position, config, 4)
    config.max_steps = 9
    with pytest.raises(ValueError, match=r"is 9 now and was 4 when the cosine schedule"):
        take_max_steps(position, config, 4)
    assert position.max_steps == 4
