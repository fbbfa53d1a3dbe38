"""`dd_plugin.distiller.checkpoint_checks`: from which checkpoints a run may go on."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from dd_plugin.distiller.checkpoint_checks import check_resumable
from dd_plugin.distiller.run import Run
from tests.distiller.toy import toy_config

FOLDER = Path("checkpoint-2")


def network(kind="Net", parameters=12):
    return SimpleNamespace(summary=lambda: {"class": kind, "parameters": parameters})


def check(saved, world=1, members=None, in_memory=True, **options):
    config = toy_config("out", **options)
    whole = {
        "config": toy_config("elsewhere").to_dict(),
        "processes": 1,
        "networks_per_step": 1,
        "architectures": ["a Net with 12 trained parameters"],
        "state": {"global_step": 2},
        **saved,
    }
    state = SimpleNamespace(
        networks=SimpleNamespace(members=members or [network()]),
        train_data=SimpleNamespace(in_memory=in_memory),
    )
    accelerator = SimpleNamespace(num_processes=world)
    check_resumable(FOLDER, whole, run=Run.of(config, accelerator), state=state)


def test_the_same_run_in_another_folder_goes_on():
    check({})


def test_settings_that_may_change_may():
    check({}, logging_steps=1, save_steps=7, eval_steps=3, rescue_dir="other")


def test_a_checkpoint_of_a_release_with_fewer_settings_goes_on():
    config = toy_config("out").to_dict()
    del config["head"], config["pyramid_levels"]
    check({"config": config})


def test_all_settings_that_differ_are_named():
    text = r"other settings \(inner_lr: 0.05 then, 0.1 now, inner_steps: 3 then, 5 now\)"
    with pytest.raises(ValueError, match=text):
        check({}, inner_steps=5, inner_lr=0.1)


def test_another_network_is_refused():
    for members in ([network("Other")], [network(parameters=13)], [network(), network()]):
        with pytest.raises(ValueError, match="with other networks or another order"):
            check({}, members=members)


def test_a_run_of_heads_is_no_run_of_networks():
    with pytest.raises(ValueError, match="frozen networks had other weights or another order"):
        check({"backbones": ["1234"]})


def test_other_processes_go_on_with_what_all_have_alike():
    check({"networks_per_step": 2}, world=2)
    with pytest.raises(ValueError, match=r"written by 1 processes, .* resume with as many, got 2"):
        check({"networks_per_step": 2}, world=2, in_memory=False)


def test_as_many_networks_in_a_step():
    with pytest.raises(ValueError, match=r"3 networks per outer step, got 1, .*_per_step=3`"):
        check({"networks_per_step": 3})


def test_steps_may_be_added_and_not_taken_away():
    with pytest.warns(UserWarning, match="those of a cosine schedule over 4 steps"):
        check({}, max_steps=6)
    with pytest.raises(ValueError, match="has 2 outer steps already"):
        check({}, max_steps=1)
