"""`dd_plugin.distiller.run`: networks are shared out among the processes, each to one."""

from types import SimpleNamespace

import pytest
import torch

from dd_plugin.distiller.run import Run
from tests.distiller.toy import toy_config


def processes(world, index=0):
    return SimpleNamespace(num_processes=world, process_index=index)


@pytest.mark.parametrize(("world", "setting", "expected"), [(1, None, 1), (3, None, 3), (2, 4, 4)])
def test_networks_of_a_step(tmp_path, world, setting, expected):
    run = Run.of(toy_config(tmp_path, networks_per_step=setting), processes(world))
    assert (run.networks_per_step, run.folder) == (expected, tmp_path)


def test_networks_that_do_not_divide_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"multiple of the number of processes, 2, got 3"):
        Run.of(toy_config(tmp_path, networks_per_step=3), processes(2))


@pytest.mark.parametrize(("world", "count"), [(1, 3), (2, 5), (4, 2)])
def test_every_network_is_one_process_s(tmp_path, world, count):
    config = toy_config(tmp_path)
    shares = [Run.of(config, processes(world, index)).share(count) for index in range(world)]
    assert sorted(network for share in shares for network in share) == list(range(count))


def test_a_run_stays_in_its_folder_though_the_settings_are_used_again(tmp_path):
    config = toy_config(tmp_path / "a")
    run = Run.of(config, processes(1))
    config.output_dir = str(tmp_path / "b")
    assert run.folder == tmp_path / "a"
    assert run.dtype == torch.float64
