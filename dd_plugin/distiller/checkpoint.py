"""Checkpoints: a run on disk, from which it resumes bit for bit after any kind of end.

Used by `distiller` and `resuming`. A checkpoint is a folder ``checkpoint-N`` that exists whole or
not at all: it is written under another name, flushed to the disk, and then renamed. Batches,
networks and augmentation are functions of the seed and the step. A checkpoint holds the rest: the
outer parameters and their optimizer, the pool of networks, the position in streamed data, the
history, and the random generators of Python, NumPy and torch for code of the user. Its folder
``set`` has the record and the tensors of the distilled set, for `dd-plugin export`. Tensors go into
safetensors and the rest into JSON; nothing in a checkpoint is executed when it is read.
"""

from __future__ import annotations

import json
import random
import shutil
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dd_plugin.distiller.callbacks import DistillerState
from dd_plugin.distiller.checkpoint_checks import (
    check_resumable,
    data_in_words,
    networks_in_words,
)
from dd_plugin.distiller.run import Run, TrainState
from dd_plugin.distiller.saved_runs import checkpoint_at, checkpoints, step_of
from dd_plugin.files import flush, replace_folder, under


def latest_checkpoint(output_dir: Path) -> Path:
    """Return the newest checkpoint in a folder.

    Raises:
        ValueError: there is none.
    """
    every = checkpoints(output_dir)
    if not every:
        raise ValueError(
            f"`output_dir` {str(output_dir)!r} holds no checkpoint to resume from; start without "
            "`resume_from_checkpoint`"
        )
    return every[-1]


def find_checkpoint(output_dir: Path, checkpoint: str | bool) -> Path:
    """Return the folder of the checkpoint to resume from.

    Args:
        output_dir: of the run.
        checkpoint: its folder; the folder of a run for its newest; or True or ``"latest"`` for the
            newest of ``output_dir``.

    Raises:
        ValueError: there is none.
    """
    if checkpoint is True or checkpoint == "latest":
        return latest_checkpoint(output_dir)
    folder = Path(str(checkpoint))
    found = checkpoint_at(folder)
    if found is None:
        raise ValueError(
            f"{str(folder)!r} is not a checkpoint that can be read (it has no state.json); give "
            "the path of a checkpoint-N folder, or another one"
        )
    return found


def save_checkpoint(
    state: TrainState, run: Run, describe: Callable[[Path], None] | None = None
) -> Path:
    """Write ``checkpoint-N`` of a run, and delete the oldest over the limit.

    Args:
        state: of the run.
        run: its settings and processes.
        describe: writes into the folder, on the main process, what makes a set of it.

    Raises:
        OSError: it could not be written, on this process or another; nothing is left of it.
    """
    accelerator, step = run.accelerator, state.position.global_step
    final = run.folder / f"checkpoint-{step}"
    partial = run.folder / f".checkpoint-{step}.partial"
    # Every process passes the same barriers, whatever failed on one of them.
    problem = ""
    if accelerator.is_main_process:
        problem = _problem_of(_begin, state, run, partial, describe)
    accelerator.wait_for_everyone()
    problem = problem or _problem_of(_save_process, state, partial, accelerator.process_index)
    failed = _any_problem(accelerator, problem)
    if not failed:
        if accelerator.is_main_process:
            problem = _problem_of(_finish, partial, final, run.config.save_total_limit)
        failed = _any_problem(accelerator, problem)
    if failed:
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
        raise OSError(problem or "another process could not write its part")
    return final


def save_or_warn(
    state: TrainState, run: Run, describe: Callable[[Path], None] | None = None
) -> bool:
    """Write a checkpoint, see `save_checkpoint`; a failure is a warning, and the run continues.

    Returns:
        Whether it was written.

    Warns:
        UserWarning: it was not.
    """
    try:
        save_checkpoint(state, run, describe)
    except OSError as error:
        # The run itself is in memory and sound; losing it for want of a file would be worse.
        warnings.warn(
            f"checkpoint {state.position.global_step} could not be written ({error}); the run goes "
            "on, earlier checkpoints are intact. Make room, or the work since the last one is "
            "lost when the run is stopped",
            stacklevel=3,
        )
        return False
    return True


def _begin(
    state: TrainState, run: Run, partial: Path, describe: Callable[[Path], None] | None
) -> None:
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _save_shared(state, run, partial)
    if describe is not None:
        describe(partial)


def _finish(partial: Path, final: Path, limit: int | None) -> None:
    replace_folder(partial, final)
    for old in checkpoints(final.parent)[: -limit if limit else 0]:
        shutil.rmtree(old, ignore_errors=True)


def _problem_of(write: Callable[..., None], *arguments: Any) -> str:
    try:
        write(*arguments)
    except OSError as error:
        return str(error)
    return ""


def set_aside_later(output_dir: Path, step: int) -> None:
    """Rename the checkpoints after the step to which a run goes back.

    They are not lost, but no longer count as checkpoints of the run.
    """
    later = [path for path in checkpoints(output_dir) if step_of(path) > step]
    for path in later:
        aside = path.with_name(f"left-{path.name}")
        if aside.exists():
            shutil.rmtree(aside)
        path.rename(aside)
    if later:
        names = ", ".join(f"left-{path.name}" for path in later)
        warnings.warn(
            f"the run goes back to step {step}; its later checkpoints in {str(output_dir)!r} are "
            f"kept as {names}",
            stacklevel=4,
        )


def _any_problem(accelerator: Accelerator, problem: str) -> bool:
    """Return whether any process had a problem."""
    if accelerator.num_processes == 1:
        return bool(problem)
    flag = torch.tensor(float(bool(problem)), device=accelerator.device)
    return bool(torch.as_tensor(accelerator.reduce(flag, reduction="sum")) > 0)


def _save_shared(state: TrainState, run: Run, folder: Path) -> None:
    """Write the state that all processes share."""
    tensors = {f"synthetic.{k}": t for k, t in state.synthetic.state_dict().items()}
    tensors |= {f"best.{k}": t for k, t in state.best.tensors.items()}
    numbers: dict[str, Any] = {}
    optimizer = state.optimizer.state_dict()
    for index, values in optimizer["state"].items():
        tensors |= {f"optimizer.{index}.{k}": v for k, v in values.items()}
    numbers["optimizer_groups"] = [
        {k: v for k, v in group.items() if isinstance(v, (int, float, str, bool, list, tuple))}
        for group in optimizer["param_groups"]
    ]
    numbers["scheduler"] = {
        k: v
        for k, v in state.lr_scheduler.state_dict().items()
        if isinstance(v, (int, float, list))
    }
    numbers["state"] = {
        k: v for k, v in asdict(state.position).items() if k not in ("max_steps", "interrupted")
    }
    numbers["config"] = run.config.to_dict()
    numbers["recipe_name"], numbers["directory"] = run.config.recipe_name, str(Path.cwd())
    numbers["own_losses"] = run.own_losses
    numbers["data"] = data_in_words(state.train_data)
    numbers["processes"] = run.accelerator.num_processes
    numbers["networks_per_step"] = run.networks_per_step
    numbers |= networks_in_words(state.networks)
    _write(folder, "state", tensors, numbers)


def _save_process(state: TrainState, folder: Path, process: int) -> None:
    """Write the state of one process."""
    tensors: dict[str, Tensor] = {"rng.torch": torch.get_rng_state()}
    numbers: dict[str, Any] = {}
    if torch.cuda.is_available():
        tensors["rng.cuda"] = torch.cuda.get_rng_state()
    kind, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    numbers["numpy"] = [kind, np.asarray(keys).tolist(), position, has_gauss, gauss]
    version, internal, following = random.getstate()
    numbers["python"] = [version, list(internal), following]
    numbers["train_data"] = state.train_data.state_dict()
    for name, value in state.networks.state_dict().items():
        if isinstance(value, Tensor):
            tensors[f"networks.{name}"] = value
        else:
            numbers.setdefault("networks", {})[name] = value
    _write(folder, f"process-{process}", tensors, numbers)


def _write(folder: Path, stem: str, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
    copies = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    try:
        save_file(copies, folder / f"{stem}.safetensors")
    except SafetensorError as error:
        raise OSError(str(error)) from error
    (folder / f"{stem}.json").write_text(json.dumps(numbers))
    for suffix in ("safetensors", "json"):
        flush(folder / f"{stem}.{suffix}")
    flush(folder)


def load_checkpoint(state: TrainState, run: Run, folder: Path) -> None:
    """Restore the state of a run from a checkpoint.

    Raises:
        ValueError: it cannot be read, or belongs to a run with other settings.
    """
    tensors, numbers = _read(
        folder, "state", "config state optimizer_groups processes networks_per_step scheduler"
    )
    check_resumable(folder, numbers, run=run, state=state)
    # A process that the run did not have then takes what all of them have alike from the first.
    process = run.accelerator.process_index
    is_new = process >= numbers["processes"]
    of_process, more = _read(
        folder, f"process-{0 if is_new else process}", "numpy python train_data"
    )
    device = run.accelerator.device
    _load_shared(state, run, tensors, numbers)
    networks: dict[str, Any] = {n: t.to(device) for n, t in under(of_process, "networks.").items()}
    state.networks.load_state_dict({**networks, **more.get("networks", {})})
    state.train_data.load_state_dict(more["train_data"])
    if not is_new:  # its random numbers are not those of another process
        _load_generators(of_process, more)


def _load_shared(
    state: TrainState, run: Run, tensors: dict[str, Tensor], numbers: dict[str, Any]
) -> None:
    state.synthetic.load_state_dict(under(tensors, "synthetic."))
    device = run.accelerator.device
    state.best.tensors = {k: t.to(device) for k, t in under(tensors, "best.").items()}
    optimizer = state.optimizer.state_dict()
    entries: dict[int, dict[str, Tensor]] = {}
    for name, t in under(tensors, "optimizer.").items():
        index, _, key = name.partition(".")
        entries.setdefault(int(index), {})[key] = t
    groups = [
        {**now, **saved}
        for now, saved in zip(optimizer["param_groups"], numbers["optimizer_groups"], strict=True)
    ]
    state.optimizer.load_state_dict({"state": entries, "param_groups": groups})
    state.lr_scheduler.load_state_dict({**state.lr_scheduler.state_dict(), **numbers["scheduler"]})
    position = DistillerState(**{**numbers["state"], "max_steps": run.config.max_steps})
    then = numbers["config"].get("activation_memory", 0.0)
    if run.config.activation_memory is None and then is not None:
        position.choices.setdefault("storage", {})["activation_memory"] = then
    # In place: whoever holds the position sees the run go on.
    vars(state.position).update(vars(position))


def _load_generators(tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
    torch.set_rng_state(tensors["rng.torch"])
    if "rng.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["rng.cuda"])
    kind, keys, *rest = numbers["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))  # noqa: NPY002
    version, internal, following = numbers["python"]
    random.setstate((version, tuple(internal), following))


def _read(folder: Path, stem: str, keys: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        numbers: dict[str, Any] = json.loads((folder / f"{stem}.json").read_text())
        missing = [key for key in keys.split() if key not in numbers]
        if missing:
            raise ValueError(f"{stem}.json has no {missing[0]!r}")
        return load_file(folder / f"{stem}.safetensors"), numbers
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        raise ValueError(
            f"{str(folder)!r} is not a checkpoint that can be read ({error}); give the path of a "
            "checkpoint-N folder, or another one"
        ) from error
