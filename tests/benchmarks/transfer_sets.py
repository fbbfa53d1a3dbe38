"""The sets that `transfer` compares, each as a folder of PNG files: distilled, and real images.

A distilled set of smaller images is kept as it is stored. Whoever reads the files enlarges them, as
the set itself does.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from dd_plugin import Distiller, DistillerConfig
from dd_plugin.data import RealData
from dd_plugin.data.parametrization import Upsampled
from dd_plugin.distiller import DistillerCallback
from dd_plugin.evaluation.real_coresets import DIFFICULTY_RULES, RULES, RealCoresets
from dd_plugin.evaluation.training_images import eight_bit_images
from dd_plugin.hub.exports import export_image_folder

RANDOM = "random"
# Real images that are chosen by a rule, by the name of a row.
CHOSEN = {kind.value: kind for kind in (*RULES, *DIFFICULTY_RULES)}
# After a name: four times as many images of half the height and width, in the same storage. A set
# that is distilled so has this advantage over images of full size, whatever it has learned.
HALF_SIZE = ", half size"
_FACTOR = 2
CONTROLS = [f"{name}{size}" for size in ("", HALF_SIZE) for name in (RANDOM, *CHOSEN)]
_ABOUT = "about.json"
_IMAGES = "images"
# Learned labels (images, classes), in the order in which the files are read.
_LEARNED = "labels.pt"


def seconds_now(on_processor: bool) -> float:
    """Return seconds of the process where a processor computes, which others may be using too."""
    return time.process_time() if on_processor else time.monotonic()


class _Clock(DistillerCallback):
    """Ends a run after some seconds of outer steps, without the first one of each network.

    What is recorded and verified in those steps would be the smaller, the longer the run.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._began: float | None = None
        self._on_processor = True

    @property
    def share(self) -> float:
        """The share of the time that is over; 0 before it begins and 1 after it."""
        if self._began is None:
            return 0.0
        return min((seconds_now(self._on_processor) - self._began) / self._seconds, 1.0)

    def on_step_end(self, config: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == len(config.model):
            self._on_processor = kwargs["distiller"].accelerator.device.type == "cpu"
            self._began = seconds_now(self._on_processor)
        control.should_training_stop |= self.share >= 1


class TimedDistiller(Distiller):
    """A run of some seconds, whose learning rates fall along half a cosine of that time."""

    def __init__(
        self, config: DistillerConfig, train: Any, *, clock: _Clock, callbacks: Any = ()
    ) -> None:
        self._clock = clock
        super().__init__(None, config, train, callbacks=[clock, *callbacks])

    def create_optimizer_and_scheduler(self) -> tuple[torch.optim.Optimizer, Any]:
        optimizer, _ = super().create_optimizer_and_scheduler()
        return optimizer, LambdaLR(optimizer, lambda _: (1 + math.cos(math.pi * self.share)) / 2)

    @property
    def share(self) -> float:
        """The share of the time that is over."""
        return self._clock.share


def distilled(
    folder: Path,
    settings: Mapping[str, Any],
    train: Any,
    seconds: float,
) -> dict[str, Any]:
    """Distill a set for some seconds and write it.

    Args:
        folder: where its files go; see `read`.
        settings: of the run, without its length.
        train: what is distilled.
        seconds: of outer steps.

    Returns:
        Steps and seconds of the run.
    """
    with tempfile.TemporaryDirectory() as scratch:
        config = DistillerConfig(
            output_dir=str(Path(scratch) / "run"),
            max_steps=1_000_000,
            eval_steps=0,
            save_steps=0,
            logging_steps=1_000_000,
            baselines=False,
            disable_tqdm=True,
            **settings,
        )
        began = time.monotonic()
        run = TimedDistiller(config, train, clock=_Clock(seconds))
        run.train()
        about = {
            "outer_steps": run.state.global_step,
            "skipped_steps": run.state.skipped_steps,
            "inner_steps": run.state.inner_steps,
            "seconds": time.monotonic() - began,
            "factor": run.synthetic.parametrization.factor,
        }
        names = run.train_data.class_names
    images = run.synthetic.parametrization.stored().detach().cpu()
    learned = run.synthetic.targets().detach().cpu() if config.soft_labels else None
    write(folder, images, run.synthetic.labels.cpu(), names, about, learned)
    return about


def write(
    folder: Path,
    images: Tensor,
    labels: Tensor,
    names: list[str],
    about: Mapping[str, Any],
    learned: Tensor | None = None,
) -> None:
    """Write the PNG files of a set and its learned labels, and last what is known about it."""
    export_image_folder(folder / _IMAGES, images, labels, names)
    if learned is not None:
        torch.save(learned[labels.argsort(stable=True)], folder / _LEARNED)
    (folder / _ABOUT).write_text(json.dumps({"factor": 1, **about}))


def is_written(folder: Path) -> bool:
    """Return whether a folder has a whole set."""
    return (folder / _ABOUT).exists()


def about(folder: Path) -> dict[str, Any]:
    """Return what is known about a set."""
    known: dict[str, Any] = json.loads((folder / _ABOUT).read_text())
    return known


def read(folder: Path) -> tuple[Tensor, Tensor]:
    """Return the images of a set in [0, 1] at full size, from the PNG files, and their labels.

    Labels are classes, or probabilities where these were learned.
    """
    images, labels = [], []
    for label, of_class in enumerate(sorted((folder / _IMAGES).iterdir())):
        for file in sorted(of_class.glob("*.png")):
            with Image.open(file) as opened:
                pixels = torch.from_numpy(np.array(opened))
            images.append(pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1))
            labels.append(label)
    stored = torch.stack(images).float() / 255
    factor = about(folder)["factor"]
    if factor > 1:
        stored = Upsampled.of_stored(stored, factor)().detach()
    if (folder / _LEARNED).exists():
        return stored, torch.load(folder / _LEARNED, weights_only=True)
    return stored, torch.tensor(labels)


def real(
    coresets: RealCoresets, data: RealData, name: str, per_class: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Return real images: drawn by the seed, or chosen by a rule; four times as many of half size.

    Those of half size are averaged down, rounded as in PNG files, and enlarged again.

    Args:
        coresets: of the real images.
        data: the real images.
        name: one of `CONTROLS`.
        per_class: images of full size for each class.
        seed: of the draw.
    """
    rule = name.removesuffix(HALF_SIZE)
    is_half = rule != name
    count = per_class * _FACTOR**2 if is_half else per_class
    if rule == RANDOM:
        images, labels = data.of_each_class(count, seed)
    else:
        images, labels = coresets.images(CHOSEN[rule], count)
    if is_half:
        stored = eight_bit_images(Upsampled(images, _FACTOR).stored())
        images = Upsampled.of_stored(stored, _FACTOR)().detach()
    return images, labels
