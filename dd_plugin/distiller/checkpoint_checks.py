"""The checks of a checkpoint: are its settings, networks and processes those of the run?

Called by `checkpoint` before anything is restored.
"""

from __future__ import annotations

import copy
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dd_plugin.data import RealData
from dd_plugin.distiller.config import ENDLESS_SCHEDULES, DistillerConfig
from dd_plugin.distiller.head_course import HeadCourse
from dd_plugin.distiller.run import Run, Trained, TrainState
from dd_plugin.distiller.saved_runs import FREE, as_then


def networks_in_words(networks: Trained) -> dict[str, list[str]]:
    """Return the description of the networks in a checkpoint, to tell them from others."""
    if isinstance(networks, HeadCourse):
        return {"backbones": [backbone.fingerprint for backbone in networks.backbones]}
    each = [member.summary() for member in networks.members]
    return {
        "architectures": [
            f"a {one['class']} with {one['parameters']:,} trained parameters" for one in each
        ]
    }


def data_in_words(data: RealData) -> dict[str, Any] | None:
    """Return the description of the real images in a checkpoint; None if they are not in memory."""
    if not data.in_memory:
        return None
    return {"images": len(data), "checksum": data.fingerprint()}


def _learn_the_same(
    config: DistillerConfig, settings_then: Mapping[str, Any], state: TrainState
) -> bool:
    """Return whether `statistics_corrections` then and now are the same in other words."""
    if not state.synthetic.constants():
        return True  # without BatchNorm there are none
    then = copy.copy(config)
    vars(then)["statistics_corrections"] = settings_then["statistics_corrections"]
    return then.learns_statistics == config.learns_statistics


def check_resumable(folder: Path, saved: Mapping[str, Any], *, run: Run, state: TrainState) -> None:
    """Check that a run can resume from a checkpoint.

    Args:
        folder: the checkpoint.
        saved: its ``state.json``.
        run: the settings and processes now.
        state: the networks and data now.

    Warns:
        UserWarning: ``max_steps`` has changed, on which the schedule of the learning rates depends.

    Raises:
        ValueError: it belongs to a run with other settings, networks or processes.
    """
    settings = json.loads(json.dumps(run.config.to_dict()))
    # Settings that have come since the checkpoint was written were as they are by default, mostly.
    defaults = json.loads(json.dumps(DistillerConfig().to_dict()))
    settings_then = {**defaults, **as_then(saved["config"])}
    changed = sorted(
        name
        for name in set(settings) | set(settings_then)
        if name not in FREE and settings.get(name) != settings_then.get(name)
    )
    if settings["activation_memory"] is None and "activation_memory" in changed:
        changed.remove("activation_memory")  # the run goes on with what it had
    if "statistics_corrections" in changed and _learn_the_same(run.config, settings_then, state):
        changed.remove("statistics_corrections")
    _check_processes(folder, saved, run, state)
    _check_networks(folder, saved, run, state)
    known = _check_data(folder, saved, state.train_data)
    here = settings_then["dataset"], settings["dataset"]
    if "dataset" in changed and (known or _same_place(saved.get("directory"), *here)):
        changed.remove("dataset")
    if "start_from" in changed and settings["start_from"] is not None:
        places = settings_then["start_from"] or "", settings["start_from"]
        if _same_place(saved.get("directory"), *places):
            changed.remove("start_from")
    if "max_steps" in changed:
        changed.remove("max_steps")
        _check_max_steps(folder, saved, settings_then["max_steps"], run.config)
    if changed:
        lines = ", ".join(
            f"{name}: {settings_then.get(name)!r} then, {settings.get(name)!r} now"
            for name in changed
        )
        raise ValueError(
            f"{str(folder)!r} belongs to a run with other settings ({lines}); give the same, or "
            "start a new run in another folder"
        )


def _check_processes(folder: Path, saved: Mapping[str, Any], run: Run, state: TrainState) -> None:
    processes = run.accelerator.num_processes
    if saved["processes"] != processes and (
        run.config.init == "pool" or not state.train_data.in_memory
    ):
        raise ValueError(
            f"{str(folder)!r} was written by {saved['processes']} processes, each with networks "
            f"or data of its own; resume with as many, got {processes}"
        )


def _check_networks(folder: Path, saved: Mapping[str, Any], run: Run, state: TrainState) -> None:
    words = networks_in_words(state.networks)
    if saved.get("own_losses", run.own_losses) != run.own_losses:
        kinds = ["your own", "the usual"] if saved["own_losses"] else ["the usual", "your own"]
        raise ValueError(
            f"{str(folder)!r} belongs to a run with {kinds[0]} losses, got {kinds[1]}; resume in "
            "Python, "
            "with the same `inner_loss` and `outer_loss`"
        )
    weights = words.get("backbones", [])
    if saved.get("backbones", weights) != weights:
        raise ValueError(
            f"{str(folder)!r} belongs to a run whose frozen networks had other weights or another "
            "order; give the same, or start a new run in another folder"
        )
    if "architectures" in words:
        now = words["architectures"]
        then = saved.get("architectures", now)
        if then != now:
            raise ValueError(
                f"{str(folder)!r} belongs to a run with other networks or another order, "
                f"{', '.join(then)}, got {', '.join(now)}; give the same, or start a new run in "
                "another folder"
            )
    count = saved["networks_per_step"]
    if count != run.networks_per_step:
        raise ValueError(
            f"{str(folder)!r} belongs to a run with {count} networks per outer step, got "
            f"{run.networks_per_step}, by default one per process; give `networks_per_step={count}`"
        )


def _check_data(folder: Path, saved: Mapping[str, Any], data: RealData) -> bool:
    """Refuse other images; return whether they are known to be the same."""
    then = saved.get("data")
    if then is None or not data.in_memory:
        return False
    now = data_in_words(data)
    if then != now:
        numbers = f"{then['images']:,} then, {len(data):,} now"
        if then["images"] == len(data):
            numbers = "as many, with other pixels, labels or another order"
        raise ValueError(
            f"{str(folder)!r} belongs to a run on other real images ({numbers}); give the same, "
            "or start a new run in another folder"
        )
    return True


def _same_place(directory: str | None, then: str, now: str) -> bool:
    """Return whether two paths of a data set are one place, the first in the run's directory."""
    place = Path(directory or "") / Path(then).expanduser()
    return place.exists() and os.path.realpath(place) == os.path.realpath(Path(now).expanduser())


def _check_max_steps(
    folder: Path, saved: Mapping[str, Any], then: int, config: DistillerConfig
) -> None:
    """Refuse fewer steps than are done; warn that the schedule was another one."""
    done = saved["state"].get("global_step", 0)
    if config.max_steps < done:
        raise ValueError(
            f"{str(folder)!r} has {done} outer steps already, more than `max_steps`, "
            f"{config.max_steps}; give at least {done}, or resume from an earlier checkpoint"
        )
    if config.lr_scheduler_type not in ENDLESS_SCHEDULES:
        warnings.warn(
            f"`max_steps` was {then} and is {config.max_steps} now: the learning rates so far "
            f"were those of a {config.lr_scheduler_type} schedule over {then} steps, so the images "
            "will not be those of an undisturbed run; for these start anew, or use "
            "lr_scheduler_type=constant from the beginning",
            stacklevel=6,
        )
