"""Checkpoints: a run on disk, so that it goes on bit for bit after any kind of end.

Beside `distiller`. A checkpoint is a folder ``checkpoint-N`` that exists whole or not at all: it is
written under another name, flushed to the disk, and then renamed. Batches, networks and
augmentation are functions of the seed and the step; what is saved is what is not: the outer
parameters and their optimizer, the pool of networks, the position in streamed data, the history,
and the generators of Python, NumPy and torch for code of the user's own. Tensors go into
safetensors and the rest into JSON; nothing in a checkpoint is executed when it is read.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dd_plugin.distiller.callbacks import DistillerState
from dd_plugin.distiller.config import ENDLESS_SCHEDULES, DistillerConfig
from dd_plugin.files import flush, replace_folder, under

if TYPE_CHECKING:
    from dd_plugin.distiller.distiller import Distiller

_NAME = re.compile(r"checkpoint-(\d+)")
# Settings that may change between a checkpoint and what goes on from it.
_FREE = {
    "output_dir",
    "overwrite_output_dir",
    "rescue_dir",
    "feature_dir",
    "wait_for_room",
    "resume_from_checkpoint",
    "logging_steps",
    "eval_steps",
    "eval_networks",
    "final_eval_networks",
    "save_steps",
    "save_total_limit",
    "report_to",
    "run_name",
    # Compared as the number that the default stood for.
    "networks_per_step",
    "disable_tqdm",
    "baselines",
    "per_device_eval_batch_size",
    "backbone_batch_size",
    "verify",
    "push_to_hub",
    "hub_dataset_id",
    "hub_private_repo",
    "hub_token",
    "hub_revision",
    "license",
}


def checkpoints(output_dir: Path) -> list[Path]:
    """The checkpoints of a folder, oldest first."""
    if not output_dir.is_dir():
        return []
    found = [path for path in output_dir.iterdir() if _NAME.fullmatch(path.name)]
    return sorted(found, key=_step_of)


def latest_checkpoint(output_dir: Path) -> Path:
    """The newest checkpoint.

    Raises:
        ValueError: there is none.
    """
    found = checkpoints(output_dir)
    if not found:
        raise ValueError(
            f"`output_dir` {str(output_dir)!r} holds no checkpoint to resume from; start without "
            "`resume_from_checkpoint`"
        )
    return found[-1]


def find_checkpoint(output_dir: Path, given: str | bool) -> Path:
    """The checkpoint that a run is to go on from, which is there.

    Args:
        output_dir: of the run.
        given: its folder, or True or ``"latest"`` for the newest of ``output_dir``.

    Raises:
        ValueError: there is none.
    """
    if given is True or given == "latest":
        return latest_checkpoint(output_dir)
    folder = Path(str(given))
    if not (folder / "state.json").is_file():
        raise ValueError(
            f"{str(folder)!r} is not a checkpoint that can be read (it has no state.json); give "
            "the path of a checkpoint-N folder, or another one"
        )
    return folder


def save_checkpoint(distiller: Distiller) -> Path:
    """Write ``checkpoint-N`` of where the run is, and delete the oldest over the limit.

    Raises:
        OSError: it could not be written, on this process or another; nothing is left of it.
    """
    accelerator, state = distiller.accelerator, distiller.state
    final = distiller.output_dir / f"checkpoint-{state.global_step}"
    partial = distiller.output_dir / f".checkpoint-{state.global_step}.partial"
    # Every process passes the same barriers, whatever failed on one of them.
    problem = ""
    if accelerator.is_main_process:
        problem = _problem_of(_begin, distiller, partial)
    accelerator.wait_for_everyone()
    problem = problem or _problem_of(_save_own, distiller, partial, accelerator.process_index)
    failed = _any_problem(distiller, problem)
    if not failed:
        if accelerator.is_main_process:
            problem = _problem_of(_finish, distiller, partial, final)
        failed = _any_problem(distiller, problem)
    if failed:
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
        raise OSError(problem or "another process could not write its part")
    return final


def _begin(distiller: Distiller, partial: Path) -> None:
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _save_shared(distiller, partial)


def _finish(distiller: Distiller, partial: Path, final: Path) -> None:
    replace_folder(partial, final)
    limit = distiller.config.save_total_limit
    for old in checkpoints(distiller.output_dir)[: -limit if limit else 0]:
        shutil.rmtree(old, ignore_errors=True)


def _problem_of(write: Callable[..., None], *arguments: Any) -> str:
    try:
        write(*arguments)
    except OSError as error:
        return str(error)
    return ""


def set_aside_later(output_dir: Path, step: int) -> None:
    """Rename the checkpoints after a step to which a run goes back: they are of another course.

    They are neither the newest ones any more nor counted with those of the run, and not lost.
    """
    later = [path for path in checkpoints(output_dir) if _step_of(path) > step]
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


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _any_problem(distiller: Distiller, problem: str) -> bool:
    if distiller.accelerator.num_processes == 1:
        return bool(problem)
    flag = torch.tensor(float(bool(problem)), device=distiller.accelerator.device)
    return bool(torch.as_tensor(distiller.accelerator.reduce(flag, reduction="sum")) > 0)


def _save_shared(distiller: Distiller, folder: Path) -> None:
    tensors = {f"synthetic.{k}": t for k, t in distiller.synthetic.state_dict().items()}
    tensors |= {f"best.{k}": t for k, t in distiller.best.tensors.items()}
    numbers: dict[str, Any] = {}
    optimizer = distiller.optimizer.state_dict()
    for index, values in optimizer["state"].items():
        tensors |= {f"optimizer.{index}.{k}": v for k, v in values.items()}
    numbers["optimizer_groups"] = [
        {k: v for k, v in group.items() if isinstance(v, (int, float, str, bool, list, tuple))}
        for group in optimizer["param_groups"]
    ]
    numbers["scheduler"] = {
        k: v
        for k, v in distiller.lr_scheduler.state_dict().items()
        if isinstance(v, (int, float, list))
    }
    numbers["state"] = {
        k: v for k, v in asdict(distiller.state).items() if k not in ("max_steps", "interrupted")
    }
    numbers["config"] = distiller.config.to_dict()
    numbers["processes"] = distiller.accelerator.num_processes
    numbers["networks_per_step"] = distiller.networks_per_step
    if distiller.head is not None:
        numbers["backbones"] = [b.fingerprint for b in distiller.head.backbones]
    else:
        numbers["architectures"] = _architectures(distiller)
    _write(folder, "state", tensors, numbers)


def _architectures(distiller: Distiller) -> list[str]:
    """The networks that take turns, in words, as far as two of them can be told apart."""
    each = [networks.summary() for networks in distiller.architectures.members]
    return [f"a {one['class']} with {one['parameters']:,} trained parameters" for one in each]


def _save_own(distiller: Distiller, folder: Path, process: int) -> None:
    tensors: dict[str, Tensor] = {"rng.torch": torch.get_rng_state()}
    numbers: dict[str, Any] = {}
    if torch.cuda.is_available():
        tensors["rng.cuda"] = torch.cuda.get_rng_state()
    kind, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    numbers["numpy"] = [kind, np.asarray(keys).tolist(), position, has_gauss, gauss]
    version, internal, following = random.getstate()
    numbers["python"] = [version, list(internal), following]
    numbers["train_data"] = distiller.train_data.state_dict()
    for name, value in distiller.networks.state_dict().items():
        if isinstance(value, Tensor):
            tensors[f"networks.{name}"] = value
        else:
            numbers.setdefault("networks", {})[name] = value
    _write(folder, f"process-{process}", tensors, numbers)


def _write(folder: Path, stem: str, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
    own = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    try:
        save_file(own, folder / f"{stem}.safetensors")
    except SafetensorError as error:
        raise OSError(str(error)) from error
    (folder / f"{stem}.json").write_text(json.dumps(numbers))
    for suffix in ("safetensors", "json"):
        flush(folder / f"{stem}.{suffix}")
    flush(folder)


def load_checkpoint(distiller: Distiller, folder: Path) -> None:
    """Go back to where a checkpoint was.

    Raises:
        ValueError: it cannot be read, or belongs to a run with other settings.
    """
    tensors, numbers = _read(
        folder, "state", "config state optimizer_groups processes networks_per_step scheduler"
    )
    _check_settings(distiller, folder, numbers)
    # A process that the run did not have then takes what all of them have alike from the first.
    process = distiller.accelerator.process_index
    is_new = process >= numbers["processes"]
    stem = f"process-{0 if is_new else process}"
    own, more = _read(folder, stem, "numpy python train_data")
    device = distiller.accelerator.device
    distiller.synthetic.load_state_dict(under(tensors, "synthetic."))
    distiller.best.tensors = {k: t.to(device) for k, t in under(tensors, "best.").items()}
    optimizer = distiller.optimizer.state_dict()
    entries: dict[int, dict[str, Tensor]] = {}
    for name, t in under(tensors, "optimizer.").items():
        index, _, key = name.partition(".")
        entries.setdefault(int(index), {})[key] = t
    groups = [
        {**now, **saved}
        for now, saved in zip(optimizer["param_groups"], numbers["optimizer_groups"], strict=True)
    ]
    distiller.optimizer.load_state_dict({"state": entries, "param_groups": groups})
    distiller.lr_scheduler.load_state_dict(
        {**distiller.lr_scheduler.state_dict(), **numbers["scheduler"]}
    )
    distiller.state = DistillerState(
        **{**numbers["state"], "max_steps": distiller.config.max_steps}
    )
    networks: dict[str, Any] = {name: t.to(device) for name, t in under(own, "networks.").items()}
    distiller.networks.load_state_dict({**networks, **more.get("networks", {})})
    distiller.train_data.load_state_dict(more["train_data"])
    if is_new:
        return  # its random numbers are not those of another process
    torch.set_rng_state(own["rng.torch"])
    if "rng.cuda" in own and torch.cuda.is_available():
        torch.cuda.set_rng_state(own["rng.cuda"])
    kind, keys, *rest = more["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))  # noqa: NPY002
    version, internal, following = more["python"]
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


def _check_settings(distiller: Distiller, folder: Path, numbers: dict[str, Any]) -> None:
    now = json.loads(json.dumps(distiller.config.to_dict()))
    # Settings that have come since the checkpoint was written were as they are by default.
    then = {**json.loads(json.dumps(DistillerConfig().to_dict())), **numbers["config"]}
    changed = sorted(
        k for k in set(now) | set(then) if k not in _FREE and now.get(k) != then.get(k)
    )
    if numbers["processes"] != distiller.accelerator.num_processes and (
        distiller.config.init == "pool" or not distiller.train_data.in_memory
    ):
        raise ValueError(
            f"{str(folder)!r} was written by {numbers['processes']} processes, each with networks "
            f"or data of its own; resume with as many, got {distiller.accelerator.num_processes}"
        )
    weights = [b.fingerprint for b in distiller.head.backbones] if distiller.head else []
    if numbers.get("backbones", weights) != weights:
        raise ValueError(
            f"{str(folder)!r} belongs to a run whose frozen networks had other weights or another "
            "order; give the same, or start a new run in another folder"
        )
    if distiller.head is None:
        own = _architectures(distiller)
        if (then_networks := numbers.get("architectures", own)) != own:
            raise ValueError(
                f"{str(folder)!r} belongs to a run with other networks or another order, "
                f"{', '.join(then_networks)}, got {', '.join(own)}; give the same, or start a new "
                "run in another folder"
            )
    networks = numbers["networks_per_step"]
    if networks != distiller.networks_per_step:
        raise ValueError(
            f"{str(folder)!r} belongs to a run with {networks} networks per outer step, got "
            f"{distiller.networks_per_step}, by default one per process; give "
            f"`networks_per_step={networks}`"
        )
    if "max_steps" in changed:
        changed.remove("max_steps")
        done = numbers["state"].get("global_step", 0)
        if now["max_steps"] < done:
            raise ValueError(
                f"{str(folder)!r} has {done} outer steps already, more than `max_steps`, "
                f"{now['max_steps']}; give at least {done}, or resume from an earlier checkpoint"
            )
        if now["lr_scheduler_type"] not in ENDLESS_SCHEDULES:
            warnings.warn(
                f"`max_steps` was {then['max_steps']} and is {now['max_steps']} now: the learning "
                f"rates so far were those of a {now['lr_scheduler_type']} schedule over "
                f"{then['max_steps']} steps, so the images will not be those of an undisturbed "
                "run; for these start anew, or use lr_scheduler_type=constant from the beginning",
                stacklevel=5,
            )
    if changed:
        lines = ", ".join(f"{k}: {then.get(k)!r} then, {now.get(k)!r} now" for k in changed)
        raise ValueError(
            f"{str(folder)!r} belongs to a run with other settings ({lines}); give the same, or "
            "start a new run in another folder"
        )
