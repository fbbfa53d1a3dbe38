"""Several processes: all run their steps as the main process has chosen, from the same step on."""

import json
import sys

from tests.processes import run_processes

RUN = """
import os, sys
import pytest
from tests.distiller.choosing import AUTO, Injected, use_quick_compiler
from tests.distiller.toy import toy_distiller

patch = pytest.MonkeyPatch()
use_quick_compiler(patch)
# To the second process compiled steps are slower, and it measures other times.
times = {"traced": 100.0, "compiled": 50.0} if os.environ["RANK"] == "0" else {"compiled": 300.0}
Injected(patch, cores=4, **times)
folder = sys.argv[1]
distiller = toy_distiller(folder, networks_per_step=2, save_steps=10, **AUTO)
distiller.train()
problem = distiller.architectures.problems[0]
chosen = distiller.state.choices["compile"]["from_step"], problem.compile
# In one piece: both processes write to the same place.
os.write(1, f"CHOSE {chosen[0]} {chosen[1]}\\n".encode())
distiller.accelerator.wait_for_everyone()
distiller.accelerator.end_training()
"""


def test_all_obey_the_main_process(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(RUN)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["--master_port", "0", "--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"]
    done = run_processes([*command, str(script), str(tmp_path / "out")], tmp_path / "out")
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for line in done.stdout.splitlines() if "CHOSE" in line]
    assert [line.partition("CHOSE ")[2] for line in lines] == ["6 True", "6 True"]
    state = json.loads((tmp_path / "out" / "checkpoint-30" / "state.json").read_text())
    assert state["state"]["choices"]["compile"]["from_step"] == 6
    assert "50 s compiled and 100 s traced" in state["state"]["choices"]["compile"]["reason"]
