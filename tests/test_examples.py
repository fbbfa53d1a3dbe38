"""The examples run as they are, and what they say holds."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dd_plugin.distiller import DistillerConfig

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_forum_forward_backward(capsys):
    path = EXAMPLES / "forum_forward_backward.py"
    assert len(path.read_text().splitlines()) < 40
    names = runpy.run_path(str(path))
    losses = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()]
    # Three outer losses, each well below the one before, from ln 2 = 0.69 of guessing.
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.4
    for name, start in names["problem"].model.constants.items():
        assert not start.equal(names["statistics"][name].detach())
    assert all(p.grad is None for p in names["model"].parameters())


LAUNCHERS = {
    "python": [sys.executable],
    "accelerate": [sys.executable, "-m", "accelerate.commands.launch", "--cpu"],
    "torchrun": [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"],
}


@pytest.mark.parametrize("launcher", sorted(LAUNCHERS))
def test_distill_your_own(tmp_path, launcher):
    pytest.importorskip("sklearn", reason="the digits come with the extra demo")
    command = [*LAUNCHERS[launcher], str(EXAMPLES / "distill_your_own.py")]
    command += ["--output_dir", str(tmp_path), "--max_steps", "2"]
    environment = {
        **os.environ,
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(EXAMPLES.parent),
    }
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("ten images teach fresh networks") == 1
    assert (tmp_path / "preview.png").exists()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("configs/*.yaml")), ids=lambda p: p.stem)
def test_configurations_are_possible_and_have_no_idle_option(path):
    # Warnings are errors here: an option without effect would fail.
    config = DistillerConfig(**yaml.safe_load(path.read_text()))
    assert config.output_dir.endswith(path.stem)
