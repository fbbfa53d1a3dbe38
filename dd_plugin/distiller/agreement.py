"""The check that all processes hold the same data, settings, networks and synthetic set.

Called by `distiller` before the first step. Every process reads its own data and makes its
own synthetic set, and gradients alone are exchanged. Processes that differ would average gradients
of different images, without an error.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

import dd_plugin
from dd_plugin.bilevel import FunctionalModel
from dd_plugin.data import RealData
from dd_plugin.distiller.config import DistillerConfig
from dd_plugin.distiller.head_course import HeadCourse
from dd_plugin.distiller.parts import Parts
from dd_plugin.distiller.run import Run, Trained, TrainState

# Settings that the main process alone reads.
_OF_ONE_PROCESS = {
    "disable_tqdm",
    "hub_private_repo",
    "hub_revision",
    "license",
    "overwrite_output_dir",
    "report_to",
    "rescue_dir",
    "feature_dir",
    "run_name",
    "wait_for_room",
}
# Other processors and numbers of threads add in another order.
_TOLERANCE = 1e-4
_MOST_DIFFERENCES = 6
_LONGEST_VALUE = 60
# Images of a data set that is not in memory.
_SAMPLE = 64


class ProcessesDifferError(ValueError):
    """The processes of a run do not work on the same thing."""


def check_construction(run: Run, parts: Parts) -> None:
    """Compare what the processes have read and made; then give all of them the same start.

    Raises:
        ProcessesDifferError: they differ, on every process; the message says in what.
    """
    if run.accelerator.num_processes == 1:
        return
    train, evaluation, synthetic = parts.train, parts.evaluation, parts.synthetic
    facts = {
        "code of dd_plugin": code_version(),
        "torch": torch.__version__,
        **_settings(run.config),
        "classes": train.class_names,
        "shape of the images": train.shape,
        "number of training images": _length(train),
        "training images": _checksum_of_data(train),
        "number of evaluation images": _length(evaluation),
        "evaluation images": _checksum_of_data(evaluation),
        **_networks(parts.networks),
        "tensors of the synthetic set": _shapes(synthetic.state_dict()),
        "normalization": str(parts.transform.metadata()),
    }
    compare_facts(run.accelerator, facts)
    start = {f"{name} at the start": t for name, t in synthetic.state_dict().items()}
    start |= {f"transform.{name}": t for name, t in parts.transform.to_tensors().items()}
    compare_tensors(run.accelerator, start)


def _networks(networks: Trained) -> dict[str, Any]:
    """Return the facts about the networks that all processes must share."""
    if isinstance(networks, HeadCourse):
        return {
            f"weights of backbone {index}": backbone.fingerprint
            for index, backbone in enumerate(networks.backbones)
        }
    facts: dict[str, Any] = {}
    for place, problem in enumerate(networks.problems):
        number = f" {place + 1}" if len(networks.members) > 1 else ""
        facts |= _network(problem.model, number, fixed=networks.mode == "fixed")
    return facts


def _network(model: FunctionalModel, number: str, *, fixed: bool) -> dict[str, Any]:
    """Return the facts about one network; its number is for the messages."""
    named = {**model.parameters, **model.statistics, **model.counters}
    held = {**model.fixed, **model.constants}
    return {
        f"tensors of the network{number}": _shapes({**named, **held}),
        # Weights that are drawn anew for each inner run differ from process to process.
        f"start of the network{number}": _checksum({**named, **held} if fixed else model.fixed),
    }


def check_course(run: Run, state: TrainState) -> None:
    """Compare the state from which the processes continue.

    Raises:
        ProcessesDifferError: they differ, on every process; the message says in what.
    """
    if run.accelerator.num_processes == 1:
        return
    facts = {
        **_settings(run.config),
        "outer steps done": state.position.global_step,
        "learning rates": state.lr_scheduler.get_last_lr(),
    }
    compare_facts(run.accelerator, facts)
    compare_tensors(run.accelerator, state.synthetic.state_dict())


def compare_facts(accelerator: Accelerator, facts: Mapping[str, Any]) -> None:
    """Compare values by name over all processes.

    Raises:
        ProcessesDifferError: some differ.
    """
    from accelerate.utils import gather_object

    _refuse(_differences(gather_object([{name: _text(v) for name, v in facts.items()}])))


def compare_tensors(accelerator: Accelerator, tensors: Mapping[str, Tensor]) -> None:
    """Compare tensors of the same shapes with those of process 0, then make them these.

    Raises:
        ProcessesDifferError: some differ by more than rounding.
    """
    from accelerate.utils import broadcast, gather_object

    differ, first = [], {}
    for name in sorted(tensors):
        tensor = tensors[name].detach().to(accelerator.device)
        first[name] = torch.as_tensor(broadcast(tensor.clone(), from_process=0))
        if not _close(tensor, first[name]):
            differ.append(name)
    by_process = gather_object([differ])
    names = sorted({name for names in by_process for name in names})
    ranks = {
        name: [rank for rank, differing in enumerate(by_process) if name in differing]
        for name in names
    }
    _refuse(f"{name} ({_processes(ranks[name])} against process 0)" for name in names)
    with torch.no_grad():
        for name, value in first.items():
            tensors[name].copy_(value)


@cache
def code_version() -> str:
    """Return the version of dd_plugin, with a checksum of its source files."""
    digest = hashlib.sha256()
    for file in sorted(Path(dd_plugin.__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return f"{dd_plugin.__version__} ({digest.hexdigest()[:8]})"


def _settings(config: DistillerConfig) -> dict[str, Any]:
    return {f"`{k}`": v for k, v in config.to_dict().items() if k not in _OF_ONE_PROCESS}


def _length(data: RealData | None) -> int | str:
    if data is None:
        return "none"
    try:
        return len(data)
    except TypeError:
        return "a stream"


def _checksum_of_data(data: RealData | None) -> str:
    """Return the checksum of all images in memory, some on disk, or the first of a stream."""
    if data is None:
        return "none"
    sum_ = 0
    if data.in_memory:
        for images, labels in data.batches(1024):
            sum_ = _crc(labels, _crc(images, sum_))
    elif isinstance(_length(data), int):
        images, labels = data.batch(_SAMPLE, 0)
        sum_ = _crc(labels, _crc(images))
    else:
        # From the beginning, whatever part of it is this process's.
        images, labels = next(data.batches(_SAMPLE))
        sum_ = _crc(labels, _crc(images))
    return f"checksum {sum_:08x}"


def _crc(tensor: Tensor, so_far: int = 0) -> int:
    plain = tensor.detach().cpu().contiguous()
    # Bytes, also of dtypes that NumPy does not have.
    return zlib.crc32(plain.reshape(-1).view(torch.uint8).numpy().data, so_far)


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    sum_ = 0
    for name in sorted(tensors):
        sum_ = _crc(tensors[name], sum_)
    return f"checksum {sum_:08x}"


def _shapes(tensors: Mapping[str, Tensor]) -> list[str]:
    return [f"{name} {tuple(tensors[name].shape)}" for name in sorted(tensors)]


def _close(a: Tensor, b: Tensor) -> bool:
    if not a.is_floating_point():
        return torch.equal(a, b)
    return torch.allclose(a, b, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True)


def _text(value: Any) -> str:
    text = str(value)
    if len(text) <= _LONGEST_VALUE:
        return text
    # Two long values may begin alike.
    return f"{text[: _LONGEST_VALUE - 23]}... (checksum {zlib.crc32(text.encode()):08x})"


def _differences(by_process: list[dict[str, str]]) -> list[str]:
    differences = []
    for name in by_process[0]:
        ranks: dict[str, list[int]] = {}
        for rank, facts in enumerate(by_process):
            ranks.setdefault(facts.get(name, "none"), []).append(rank)
        if len(ranks) > 1:
            values = (f"{value} in {_processes(where)}" for value, where in ranks.items())
            differences.append(f"{name}: {', '.join(values)}")
    return differences


def _processes(ranks: Iterable[int]) -> str:
    numbers = [str(rank) for rank in ranks]
    return f"process {numbers[0]}" if len(numbers) == 1 else f"processes {', '.join(numbers)}"


def _refuse(differences: Iterable[str]) -> None:
    lines = list(differences)
    if not lines:
        return
    more = len(lines) - _MOST_DIFFERENCES
    rest = f"; and {more} more" if more > 0 else ""
    raise ProcessesDifferError(
        "the processes must have the same data, settings, network and code, but they differ in "
        f"{'; '.join(lines[:_MOST_DIFFERENCES])}{rest}. Give every process the same; the work is "
        "shared out among them by itself"
    )
