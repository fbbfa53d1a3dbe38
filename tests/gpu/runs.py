"""Checks of whole runs: killed and resumed; a set that is made on the device and read elsewhere.

    python -m tests.gpu.runs train FOLDER DEVICE COMPILE SIZE
    python -m tests.gpu.runs evaluate FOLDER

The first kills itself at its first checkpoint; the second prints the accuracies of a set on the
CPU. The images are made here: nothing is fetched and `datasets` is not needed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import TensorDataset

from dd_plugin import DistilledDataset, Distiller, DistillerConfig
from dd_plugin.distiller import DistillerCallback
from tests.gpu.hypergradients import error
from tests.gpu.records import Row
from tests.repository import ROOT

CLASSES = 4
STEPS = 4
# Accuracies of the same networks, trained on another device with other roundings.
ACCURACY_LIMIT = 0.1
# What is left of the movement of the images when a resumed run differs in roundings alone.
RESUME_LIMIT = 0.05


def pictures(count: int, seed: int) -> TensorDataset:
    """Colored images of 16x16 whose bright quarter is the class, under noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    images = torch.randint(0, 150, (count, 3, 16, 16), generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        top, left = 8 * (label // 2), 8 * (label % 2)
        image[:, top : top + 8, left : left + 8] += 80
    return TensorDataset(images.to(torch.uint8), labels)


class KillAtCheckpoint(DistillerCallback):
    """Ends the process as a machine that is taken away does."""

    def on_save(self, config: Any, state: Any, control: Any, **kwargs: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def distiller(folder: Path, compile: Any, size: str, **more: Any) -> Distiller:
    """A run of seconds, on the device that Accelerate chooses."""
    width = 4 if size == "toy" else 32
    config = DistillerConfig(
        output_dir=str(folder),
        model_args={"width": width, "depth": 2, "norm_layer": "batchnorm2d"},
        max_steps=STEPS,
        inner_steps=3,
        inner_lr=0.05,
        real_batch_size=64,
        eval_steps=0,
        eval_networks=2,
        final_eval_networks=2,
        save_steps=STEPS // 2,
        baselines=False,
        disable_tqdm=True,
        compile=compile,
    )
    return Distiller(None, config, pictures(400, 0), pictures(200, 1), **more)


def _child(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.gpu.runs", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def check_resume(case: Mapping[str, Any], device: str, size: str) -> Row:
    """Kill a run after its checkpoint, resume it, and compare it with an undisturbed one.

    Raises:
        RuntimeError: the run to be killed ended in another way.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        undisturbed = distiller(folder / "undisturbed", case["compile"], size)
        before = undisturbed.synthetic.images().detach().clone()
        undisturbed.train()
        killed = _child("train", str(folder / "killed"), device, case["compile"], size)
        if killed.returncode != -signal.SIGKILL:
            raise RuntimeError(
                f"exit {killed.returncode} instead of a kill: {killed.stderr[-400:]}"
            )
        resumed = distiller(folder / "killed", case["compile"], size)
        state = resumed.train(resume_from_checkpoint="latest")
        found, expected = (
            (run.synthetic.images().detach() - before).double().cpu().flatten()
            for run in (resumed, undisturbed)
        )
        difference = error(found, expected)
    return {
        "device_of_the_run": str(undisturbed.accelerator.device),
        "steps": state.global_step,
        "same_bits": bool((found == expected).all()),
        "difference_of_movement": difference,
        "limit": RESUME_LIMIT,
        "ok": difference < RESUME_LIMIT and state.global_step == STEPS,
    }


def check_travel(case: Mapping[str, Any], device: str, size: str) -> Row:
    """Distill and evaluate on the device; read the set there and on a CPU and evaluate it again.

    Raises:
        RuntimeError: the process on the CPU failed.
    """
    del case
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "set"
        run = distiller(folder, "trace", size)
        run.train()
        scores = run.compare()["distilled"]
        run.save_model()
        here = accuracies(folder, device)
        cpu = _child("evaluate", str(folder), CUDA_VISIBLE_DEVICES="", ACCELERATE_USE_CPU="true")
        if cpu.returncode:
            raise RuntimeError(f"exit {cpu.returncode} on the CPU: {cpu.stderr[-400:]}")
        there = json.loads(cpu.stdout.splitlines()[-1])
    by_run = list(scores.accuracies)
    worst = max(abs(a - b) for other in (here, there) for a, b in zip(by_run, other, strict=True))
    return {
        "by_the_run": by_run,
        "read_on_the_device": here,
        "read_on_a_cpu": there,
        "limit": ACCURACY_LIMIT,
        "ok": worst < ACCURACY_LIMIT,
    }


def accuracies(folder: Path, device: str) -> list[float]:
    """Of the networks of a set's card, trained and tested on a device."""
    distilled = DistilledDataset.from_pretrained(folder)
    scores = distilled.evaluate(None, pictures(200, 1), networks=2, device=device)
    return list(scores.accuracies)


def main(arguments: list[str]) -> None:
    """See the top of the file."""
    command, folder, *more = arguments
    if command == "train":
        device, compile, size = more
        if device == "cpu":
            os.environ["ACCELERATE_USE_CPU"] = "true"
        distiller(Path(folder), compile, size, callbacks=[KillAtCheckpoint()]).train()
    else:
        print(json.dumps(accuracies(Path(folder), "cpu")))


if __name__ == "__main__":
    main(sys.argv[1:])
