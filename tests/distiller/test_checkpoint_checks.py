"""`dd_plugin.distiller.checkpoint_checks`: from which checkpoints a run may go on."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from dd_plugin.distiller.checkpoint_checks import check_resumable
from dd_plugin.distiller.run import Run
from tests.distiller.toy import toy_config

FOLDER = Path("checkpoint-2")


def network(kind="Net", parameters=12):
    return SimpleNamespace(summary=lambda: {"class": kind, "parameters": parameters})


def images(count=60, checksum="a1", in_memory=True):
    """Real images as far as they are looked at."""

    class Images:
        def __len__(self):
            return count

        def fingerprint(self):
            return checksum

    data = Images()
    data.in_memory = in_memory
    return data


def check(
    saved, world=1, members=None, in_memory=True, data=None, own=False, constants=1, **options
):
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
        train_data=data or SimpleNamespace(in_memory=in_memory),
        synthetic=SimpleNamespace(constants=lambda: dict.fromkeys(range(constants))),
    )
    accelerator = SimpleNamespace(num_processes=world)
    run = replace(Run.of(config, accelerator), own_losses=own)
    check_resumable(FOLDER, whole, run=run, state=state)


def test_the_same_run_in_another_folder_goes_on():
    check({})


def test_settings_that_may_change_may():
    check({}, logging_steps=1, save_steps=7, eval_steps=3, rescue_dir="other")


def test_a_checkpoint_of_a_release_with_fewer_settings_goes_on():
    config = toy_config("out").to_dict()
    del config["head"], config["pyramid_levels"]
    check({"config": config})


def test_corrections_that_were_learned_with_constant_step_sizes_are_so_still():
    config = toy_config("out", step_sizes="constant").to_dict()
    check({"config": config}, step_sizes="constant")
    del config["statistics_corrections"]
    check({"config": config}, step_sizes="constant", statistics_corrections="learned")
    with pytest.raises(ValueError, match="statistics_corrections: 'learned' then, None now"):
        check({"config": config}, step_sizes="constant")
    # The same in other words.
    check({"config": toy_config("out").to_dict()}, statistics_corrections="learned")
    check({"config": toy_config("out", statistics_corrections="learned").to_dict()})
    with pytest.raises(ValueError, match="statistics_corrections: None then, 'none' now"):
        check({"config": toy_config("out").to_dict()}, statistics_corrections="none")
    # There are none without BatchNorm, or with another policy.
    check({"config": config}, step_sizes="constant", constants=0)
    for statistics in ("learned", "frozen"):
        check(
            {"config": {**config, "statistics": statistics}},
            step_sizes="constant",
            statistics=statistics,
        )


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


def test_the_same_images_elsewhere_are_the_same_run():
    saved = {"data": {"images": 60, "checksum": "a1"}}
    check(saved, data=images(), dataset="/moved/photos")
    with pytest.raises(ValueError, match=r"other real images \(60 then, 61 now\); give the same"):
        check(saved, data=images(61, "b2"))
    with pytest.raises(ValueError, match=r"other real images \(as many, with other pixels"):
        check(saved, data=images(60, "b2"))


@pytest.mark.parametrize("saved", [{}, {"data": None}, {"data": {"images": 1, "checksum": "z"}}])
def test_images_that_cannot_be_compared_must_have_the_same_name_or_place(saved, tmp_path):
    stream = images(in_memory=False)
    with pytest.raises(ValueError, match=r"\(dataset: 'toy' then, 'other' now\)"):
        check(saved, data=stream, dataset="other")
    (tmp_path / "photos").mkdir()
    then = {**saved, "config": toy_config("a", dataset="photos").to_dict()}
    then["directory"] = str(tmp_path)
    check(then, data=stream, dataset=str(tmp_path / "photos"))
    with pytest.raises(ValueError, match="dataset: 'photos' then"):
        check(then, data=stream, dataset=str(tmp_path))


def test_losses_of_the_users_are_not_forgotten():
    check({"own_losses": True}, own=True)
    check({}, own=True)  # of an earlier version, which did not say
    with pytest.raises(ValueError, match="a run with your own losses, got the usual; resume in Py"):
        check({"own_losses": True})
    with pytest.raises(ValueError, match="a run with the usual losses, got your own"):
        check({"own_losses": False}, own=True)
