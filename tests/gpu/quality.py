"""CIFAR-10 in 10 images per class: the accuracy of fresh networks over seconds of distilling.

A recipe gets its time in slices, over as many runs of the command as there are. A slice goes on
from the archive of a checkpoint, writes a row per evaluation, and leaves an archive in turn. The
settings are those of a recipe of the package but for what `plan.RECIPES` says. Networks are tested
on validation images.
"""

from __future__ import annotations

import functools
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import TensorDataset

from dd_plugin import Distiller, DistillerConfig
from dd_plugin.distiller import DistillerCallback
from dd_plugin.recipes import recipe_settings
from tests.gpu.pack import read_pack
from tests.gpu.plan import RECIPES
from tests.gpu.records import Row
from tests.gpu.runs import pictures

_OF_THE_DATA = ("dataset", "image_column", "label_column", "eval_split")
# Seconds of distilling at the first evaluation, and the factor from one to the next.
_FIRST, _GROWTH = 15.0, 1.5
_TOY_FIRST = 1.0

Emit = Callable[[Row], None]


def archive_of(recipe: str) -> str:
    """The file name of the checkpoint of a recipe, in one file without compression."""
    return f"good-{recipe}.zip"


def settings(recipe: str, size: str, compile: str, folder: Path) -> DistillerConfig:
    """The settings of a recipe."""
    chosen = dict(RECIPES[recipe])
    del chosen["published"]
    given = recipe_settings(chosen.pop("settings"))
    for name in _OF_THE_DATA:
        given.pop(name, None)
    given |= {
        **chosen,
        "output_dir": str(folder),
        "compile": compile,
        "eval_steps": 0,
        "eval_networks": 3,
        "save_steps": 1_000_000,  # when the callback says so
        "save_total_limit": 1,
        "disable_tqdm": True,
        "baselines": False,
    }
    if size == "toy":
        given["model_args"] |= {"width": 4, "depth": 2}
        given |= {"inner_steps": 4, "real_batch_size": 32, "eval_networks": 1}
        if given["batching"] == "groups":
            given |= {"groups": 2, "images_per_class": 2}
        else:
            given |= {"window_length": 2, "images_per_class": 1, "batch_size": 4}
    return DistillerConfig(**given)


class Watch(DistillerCallback):
    """Evaluates and saves at growing intervals of the time spent on distilling; ends in time.

    A row is written when its checkpoint is: what is cut off goes on from the last row.

    Args:
        seconds: spent on distilling in earlier slices.
        until: when the slice has to be over, on the monotonic clock.
        first: seconds of distilling at the first evaluation.
        keep: packs the checkpoint of a folder.
        emit: takes a row.

    Attributes:
        seconds: spent on distilling so far, earlier slices included.
    """

    def __init__(
        self, seconds: float, until: float, first: float, keep: Callable[[], None], emit: Emit
    ) -> None:
        self.seconds = seconds
        self._until, self._keep, self._emit = until, keep, emit
        self._next = first
        while self._next <= seconds:
            self._next *= _GROWTH
        self._began = 0.0
        self._overhead = 5.0  # seconds to leave for the last evaluation and its checkpoint
        self._row: Row = {}

    def on_train_begin(self, config: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._began = time.monotonic()

    def on_step_end(self, config: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._count()
        over = time.monotonic() + self._overhead > self._until
        last = state.global_step >= state.max_steps
        if self.seconds >= self._next or over or last:
            control.should_evaluate = control.should_save = True
            while self._next <= self.seconds:
                self._next *= _GROWTH
        control.should_training_stop = over

    def on_evaluate(self, config: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._row = {
            "step": state.global_step,
            "seconds": self.seconds,
            "skipped_steps": state.skipped_steps,
            **kwargs["metrics"],
        }

    def on_save(self, config: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._keep()
        self._emit(self._row)
        self._overhead = max(self._overhead, 2 * self._count(add=False))

    def _count(self, add: bool = True) -> float:
        now = time.monotonic()
        passed, self._began = now - self._began, now
        self.seconds += passed if add else 0.0
        return passed


def distill(case: Mapping[str, Any], device: str, size: str, emit: Emit) -> Row:
    """One slice of a recipe.

    Args:
        case: ``recipe``, ``compile``, ``seconds`` of the slice, ``before``: seconds of earlier
            slices, ``data``: the packed images or None for noise, ``out``: where the archive is.
        device: where it runs, as Accelerate chooses.
        size: "full" or "toy".
        emit: takes a row per evaluation.

    Returns:
        What the slice did.
    """
    began = time.monotonic()
    until = began + case["seconds"]
    archive = Path(case["out"]) / archive_of(case["recipe"])
    train, validation = images(case["data"], size)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        first = _TOY_FIRST if size == "toy" else _FIRST
        keep = functools.partial(pack_checkpoint, folder, archive)
        watch = Watch(case["before"], until, first, keep, emit)
        config = settings(case["recipe"], size, case["compile"], folder)
        run = Distiller(None, config, train, validation, callbacks=[watch])
        ready = time.monotonic() - began
        resume = archive.exists()
        if resume:
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(folder)
        earlier = unpacked_step(folder) if resume else 0
        run.train(resume_from_checkpoint="latest" if resume else None)
        return {
            "steps": run.state.global_step - earlier,
            "seconds_of_distilling": watch.seconds - case["before"],
            "seconds_before_the_first_step": ready,
            "skipped_steps": run.state.skipped_steps,
            "device_of_the_run": str(run.accelerator.device),
            "real_images": len(run.train_data),
        }


def unpacked_step(folder: Path) -> int:
    """The step of the one checkpoint in a folder."""
    (only,) = folder.glob("checkpoint-*")
    return int(only.name.rpartition("-")[2])


def pack_checkpoint(folder: Path, archive: Path) -> None:
    """Put the checkpoint of a run into one file, whole or not at all."""
    files = sorted(path for path in folder.glob("checkpoint-*/*") if path.is_file())
    partial = archive.with_suffix(".partial")
    with zipfile.ZipFile(partial, "w") as packed:
        for path in files:
            packed.write(path, path.relative_to(folder))
    partial.replace(archive)


@functools.cache
def images(data: str | None, size: str) -> tuple[Any, Any]:
    """The real images for distilling and for testing."""
    if data is None:
        return pictures(200, 0), pictures(100, 1)
    splits = read_pack(Path(data), limit=100 if size == "toy" else None)
    train, validation = (
        TensorDataset(*map(torch.from_numpy, splits[name])) for name in ("train", "validation")
    )
    return train, validation
