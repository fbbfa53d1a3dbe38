"""`dd_plugin.distiller.outer_optimizer`: each kind of leaf has its learning rate."""

import pytest
import torch
from transformers import get_scheduler

from dd_plugin.distiller.outer_optimizer import make_outer_optimizer, share_of_rate
from dd_plugin.distiller.setting_descriptions import setting_choices
from tests.distiller.toy import toy_config

RATES = {"images": 0.1, "labels": 0.2, "step_sizes": 0.3, "constants": 0.4}


def leaves(*kinds):
    return {kind: [torch.ones(2, requires_grad=True)] if kind in kinds else [] for kind in RATES}


def config(folder, **options):
    names = ("learning_rate", "label_lr", "step_size_lr", "statistics_lr")
    return toy_config(folder, **dict(zip(names, RATES.values(), strict=True)), **options)


@pytest.mark.filterwarnings("ignore::dd_plugin.distiller.NoEffectWarning")
def test_groups_are_the_kinds_that_are_learned(tmp_path):
    for kinds in (tuple(RATES), ("images", "step_sizes")):
        optimizer, _ = make_outer_optimizer(config(tmp_path), leaves(*kinds))
        groups = {group["name"]: group["lr"] for group in optimizer.param_groups}
        assert groups == {kind: RATES[kind] for kind in kinds}


@pytest.mark.filterwarnings("ignore::dd_plugin.distiller.NoEffectWarning")
def test_a_schedule_is_that_of_all_kinds(tmp_path):
    settings = config(tmp_path, lr_scheduler_type="linear", max_steps=4)
    optimizer, scheduler = make_outer_optimizer(settings, leaves("images", "labels"))
    for _ in range(2):
        optimizer.step()
        scheduler.step()
    assert scheduler.get_last_lr() == pytest.approx([0.05, 0.1])


@pytest.mark.parametrize("schedule", setting_choices()["lr_scheduler_type"])
@pytest.mark.parametrize(("warmup", "steps"), [(0, 7), (3, 7), (0, 1), (9, 7)])
def test_schedules_are_those_of_transformers_to_the_bit(schedule, warmup, steps):
    optimizer = torch.optim.SGD([torch.ones(1)], lr=1.0)
    theirs = get_scheduler(schedule, optimizer, num_warmup_steps=warmup, num_training_steps=steps)
    for step in range(steps + 3):  # a run may be resumed with more steps
        share = share_of_rate(schedule, step, warmup=warmup, steps=steps)
        assert share == theirs.get_last_lr()[0]
        optimizer.step()
        theirs.step()
