"""Accuracies of baselines, kept in a folder so that no network is trained twice for the same.

Used by `comparison`. An accuracy is found again only by all that it depends on: both sets of
images, the network as it was before training, how it was trained, and the code that did it. What
cannot be told for certain is not kept: streams, images that are not in memory, networks without a
name, and augmentations and transforms of somebody else's classes.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dd_plugin.data import RealData
from dd_plugin.data.synthetic import SyntheticSet
from dd_plugin.evaluation.ordinary import batch_size, training_steps
from dd_plugin.evaluation.training_images import TrainingImages
from dd_plugin.files import locked, write_whole

logger = logging.getLogger(__name__)

# The file in the folder of a run or set. It is not published.
BASELINES = "baselines.json"
_FORMAT = "accuracies of baselines, version 1"
_PACKAGES = ("torch", "timm", "transformers", "numpy")


@dataclass(frozen=True, kw_only=True, eq=False)
class Training:
    """The training of one network beside a set.

    Attributes:
        model: the name of the network; None where it has none.
        images: the kind of training images.
        count: how many it is trained on; None for a stream.
        seed: of the draw and the training.
        train: the real images.
        test: the real images that it is tested on.
        on_set: the protocol, where it is trained as on the distilled set: with its recipe, and its
            images or its labels.
    """

    model: str | None
    images: TrainingImages
    count: int | None
    seed: int
    train: RealData | None
    test: RealData
    on_set: str | None = None

    def key(self, network: nn.Module, synthetic: SyntheticSet) -> str | None:
        """Return a checksum of all that the accuracy depends on; None where that is not known.

        Args:
            network: before it is trained.
            synthetic: the set whose transform, augmentation and precision are used.
        """
        if self.model is None or self.train is None:
            return None
        if not (self.train.in_memory and self.test.in_memory):
            return None
        augmentation, recipe = synthetic.augmentation, synthetic.recipe
        if not all(map(_is_of_package, (augmentation, synthetic.transform))):
            return None
        code = _code_of(network)
        if code is None:
            return None
        parts = {
            "train": [self.train.fingerprint(), self.train.num_classes],
            "test": [self.test.fingerprint(), self.test.num_classes],
            "images": [self.images.value, self.count],
            "steps": [training_steps(self.count), batch_size(self.count)],
            "seed": self.seed,
            "model": self.model,
            "structure": repr(network),
            "weights": _checksum_of_tensors(network.state_dict()),
            "trained": [name for name, p in network.named_parameters() if p.requires_grad],
            "transform": synthetic.transform.metadata(),
            "transform tensors": _checksum_of_tensors(synthetic.transform.to_tensors()),
            "augmentation": [*augmentation.names, augmentation.compose, augmentation.fill],
            "precision": [recipe.mixed_precision, str(synthetic.log_step_sizes.dtype)],
            "code": [code, package_checksum()],
            "versions": {name: _version_of(name) for name in _PACKAGES},
            "device": [str(self.test.device.type), torch.backends.cpu.get_cpu_capability()],
        }
        if self.on_set is not None:
            tensors = _checksum_of_tensors(synthetic.state_dict())
            parts["set"] = [self.on_set, tensors, synthetic.label_form, recipe.to_dict()]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class KeptBaselines:
    """Accuracies in a file; without a file every network is trained.

    Attributes:
        path: the file, which is made when there is something to keep; None for none.
    """

    path: Path | None

    @classmethod
    def in_folder(cls, folder: Path) -> KeptBaselines:
        """Return those of the folder of a run or a set."""
        return cls(folder / BASELINES)

    def accuracy(
        self,
        training: Training,
        network: nn.Module,
        synthetic: SyntheticSet,
        measure: Callable[[], float],
    ) -> float:
        """Return the accuracy of a network on test images after a training.

        Args:
            training: how it is trained.
            network: before it is trained.
            synthetic: see `Training.key`.
            measure: trains and tests it, where that has not been done before.
        """
        key = None if self.path is None else training.key(network, synthetic)
        if self.path is None or key is None:
            return measure()
        known = _read(self.path)
        if known is not None and (accuracy := _accuracy_in(known.get(key))) is not None:
            return accuracy
        accuracy = measure()
        _add(self.path, key, training, accuracy)
        return accuracy


NOTHING_KEPT = KeptBaselines(None)


def _read(path: Path) -> dict[str, Any] | None:
    """The entries of a file; None where it is no such file, or cannot be read."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError):
        content = None
    entries = content.get("accuracies") if isinstance(content, dict) else None
    if not isinstance(entries, dict) or content.get("format") != _FORMAT:
        _say_once(
            f"{path} is damaged or something else: it is left as it is, and accuracies of "
            "baselines are not kept; move it away to keep them"
        )
        return None
    return entries


def _add(path: Path, key: str, training: Training, accuracy: float) -> None:
    entry = {
        "accuracy": accuracy,
        "model": training.model,
        "trained on": training.images.value,
        "images": training.count,
        "seed": training.seed,
    }
    try:
        with locked(path):
            entries = _read(path)  # others may have added theirs
            if entries is None:
                return
            content = {"format": _FORMAT, "accuracies": {**entries, key: entry}}
            write_whole(path, (json.dumps(content, indent=1) + "\n").encode())
    except OSError as error:
        _say_once(f"accuracies of baselines are not kept: {path} cannot be written: {error}")


def _accuracy_in(entry: Any) -> float | None:
    value = entry.get("accuracy") if isinstance(entry, dict) else None
    # No whole numbers but 0 and 1, and no NaN, which no comparison holds for.
    return value if isinstance(value, float) and 0 <= value <= 1 else None


@functools.lru_cache
def _say_once(message: str) -> None:
    logger.warning(message)


# Checksums.


def _checksum_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    total = hashlib.sha256()
    for name, tensor in tensors.items():
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        total.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


@functools.cache
def package_checksum() -> str:
    """Return a checksum of the source of this package."""
    return _checksum_of_files(sorted(Path(__file__).parents[1].rglob("*.py")))


def _is_of_package(value: object) -> bool:
    """Whether `package_checksum` has the code of a value's class, and its options are known."""
    return type(value).__module__.partition(".")[0] == __name__.partition(".")[0]


def _code_of(network: nn.Module) -> str | None:
    """A checksum of the source of all layers; None where one has no source."""
    try:
        files = {inspect.getfile(type(module)) for module in network.modules()}
        return _checksum_of_files(sorted(map(Path, files)))
    except (OSError, TypeError):
        return None


def _checksum_of_files(paths: Iterable[Path]) -> str:
    total = hashlib.sha256()
    for path in paths:
        total.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()


def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
