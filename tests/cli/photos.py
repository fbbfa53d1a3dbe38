"""A folder of small images as a user has one, and the shell that commands are pasted into."""

import os
import subprocess
import sys

import numpy as np
from PIL import Image

from tests.processes import ENVIRONMENT

# A run of seconds.
SHORT = {
    "model_args": '{"width": 4, "depth": 1, "norm_layer": "batchnorm2d"}',
    "inner_steps": "2",
    "real_batch_size": "4",
    "eval_steps": "0",
    "save_steps": "3",
    "final_eval_networks": "1",
    "compile": "no",
    "lr_scheduler_type": "constant",
    "seed": "3",
    "logging_steps": "1",
    "soft_labels": "true",
    "baselines": "false",
}


def options(**settings):
    """Settings as words of the command."""
    return [f"--{name}={value}" for name, value in settings.items()]


def write_photos(folder, size=8):
    """Write gray images of two classes, six for training and four for tests of each."""
    random = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 4)):
        for name, shade in (("cat", 0), ("dog", 100)):
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 100, (size, size)) + shade
                image = Image.fromarray(pixels.astype(np.uint8))
                image.save(folder / split / name / f"{index}.png")
    return folder


def pasted(command, where, more=""):
    """What became of a command that was printed, pasted into a shell in a folder."""
    shell = f'dd-plugin() {{ "{sys.executable}" -m dd_plugin "$@"; }}\n{command} {more}'
    return subprocess.run(
        ["bash", "-c", shell],
        cwd=where,
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
