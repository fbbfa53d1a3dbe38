"""DD-Ranking as the judge of a set: the package `ddranking` itself, on our export.

Above `dataset` and `exports`; `ledger` stores what comes out. The judge trains its own networks by
its own loop on the exported images with hard labels, and compares them with random real images and
with all of them. It is no requirement of ours, since it cannot be installed beside NumPy 2.

Release 0.2.0 has faults that are worked around here, and nowhere else:

- `LabelRobustScoreHard` trains everything and then fails at its CSV file, because it lists each
  score twice. The lists are taken where it would write them.
- `AugmentationRobustScore` fails with random images as tensors, with its own default schedule, and
  with hard labels, for which two of its attributes are missing. It gets image files, a cosine and
  the attributes.
- `LabelRobustScoreSoft` fails with learned labels, whatever the form of the random images. So
  labels that were learned are not judged.
- Its scores put percent into a formula for shares. `Judgement` computes them from the differences.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import torch

from dd_plugin.data.synthetic import SyntheticSet
from dd_plugin.hub.exports import DD_RANKING_NORMALIZATION, export_dd_ranking
from dd_plugin.hub.record import Judgement
from dd_plugin.seeds import untouched_generators

PACKAGE: Final = "ddranking"
# It tests every 10 epochs, or every 20, and never at the end.
FEWEST_EPOCHS: Final = 20
# The strategy of DSA (Zhao and Bilen, arXiv 2102.08259), in the names of the package.
_DSA: Final = {
    "flip": 0.5,
    "scale": 1.2,
    "rotate": 15.0,
    "crop": 0.125,
    "cutout": 0.5,
    "brightness": 1.0,
    "saturation": 2.0,
    "contrast": 0.5,
}


class JudgeMissingError(ImportError):
    """The package that judges is not installed, or cannot be imported."""


@dataclass(frozen=True, kw_only=True)
class Hearing:
    """The conditions of a judgement.

    Attributes:
        dataset: DD-Ranking's name of the real images, such as ``"CIFAR10"``.
        real_data: the folder that it reads them from. It downloads CIFAR where that is missing.
        model: its name of the network: ``"ConvNet-3"``, ``"ResNet-18-BN"``, ...
        runs: how often everything is trained.
        epochs: of each training.
        full_data: the accuracy on all real images in percent, where it is known; without, the
            judge trains on them, which takes by far the longest.
        device: where it trains.
    """

    dataset: str
    real_data: Path
    model: str = "ConvNet-3"
    runs: int = 5
    epochs: int = 300
    full_data: float | None = None
    device: str = "cpu"


def judged(synthetic: SyntheticSet, hearing: Hearing) -> Judgement:
    """Return the scores that DD-Ranking gives a set.

    Args:
        synthetic: the set, of which it gets the images and their classes.
        hearing: the conditions.

    Raises:
        JudgeMissingError: the package cannot be imported.
        ValueError: the set or the conditions do not fit it.
    """
    package = _package()
    if hearing.epochs < FEWEST_EPOCHS:
        raise ValueError(
            f"`epochs` must be at least {FEWEST_EPOCHS}, since DD-Ranking tests so often, got "
            f"{hearing.epochs}"
        )
    if hearing.runs < 1:
        raise ValueError(f"`runs` must be at least 1, got {hearing.runs}")
    with tempfile.TemporaryDirectory() as folder, untouched_generators():
        place = Path(folder)
        images = _exported(synthetic, hearing.dataset, place / "export")
        options = _options(synthetic, hearing, place)
        label_scores = _label_scores(package, hearing, options, images)
        augmentation_scores = _augmentation_scores(package, hearing, options, images)
    return Judgement(
        judge=f"{PACKAGE} {_release()}",
        dataset=hearing.dataset,
        model=hearing.model,
        epochs=hearing.epochs,
        full_data=hearing.full_data,
        hard_label_recovery=_points(label_scores["hard_label_recovery"]),
        improvement_over_random=_points(label_scores["improvement_over_random"]),
        augmented=_points(augmentation_scores["with_aug_scores"]),
        plain=_points(augmentation_scores["without_aug_scores"]),
    )


def _package() -> Any:
    try:
        return import_module(PACKAGE)
    except ImportError as error:
        raise JudgeMissingError(
            f"DD-Ranking cannot be imported: {error}; install what it needs and then the package, "
            'which asks for NumPy 1 but works with 2: pip install "dd-plugin[judge]", and '
            "pip install --no-deps ddranking==0.2.0"
        ) from error


def _release() -> str:
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return "of an unknown version"


def _exported(synthetic: SyntheticSet, dataset: str, folder: Path) -> torch.Tensor:
    """Export a set with hard labels, and return the images as the judge would load them."""
    export_dd_ranking(folder, synthetic.images(), synthetic.labels, dataset=dataset)
    images: torch.Tensor = torch.load(folder / "images.pt", weights_only=True)
    return images


def _options(synthetic: SyntheticSet, hearing: Hearing, place: Path) -> dict[str, Any]:
    """Return the arguments that both evaluators take alike."""
    return {
        "dataset": hearing.dataset,
        "real_data_path": str(hearing.real_data),
        "ipc": len(synthetic.labels) // synthetic.recipe.num_classes,
        "model_name": hearing.model,
        "im_size": synthetic.recipe.shape[1:],
        "data_aug_func": "dsa",
        "lr_scheduler": "cosineannealing",
        "num_eval": hearing.runs,
        "num_epochs": hearing.epochs,
        "num_workers": 0,
        "save_path": str(place / "scores.csv"),
        "device": hearing.device,
    }


def _label_scores(
    package: Any, hearing: Hearing, options: Mapping[str, Any], images: torch.Tensor
) -> Mapping[str, Any]:
    module = import_module(package.LabelRobustScoreHard.__module__)
    key = f"{hearing.dataset}-{hearing.model}"
    known = {} if hearing.full_data is None else {key: hearing.full_data}
    accuracies = {**module.REAL_DATA_ACC_CACHE, **known}
    if key not in {**accuracies, **module.REAL_DATA_TRAINING_CONFIG}:
        raise ValueError(
            f"DD-Ranking does not know how to train {hearing.model} on all of {hearing.dataset}; "
            "give the accuracy of that network, or another one of "
            f"{', '.join(module.REAL_DATA_TRAINING_CONFIG)}"
        )
    with (
        _exchanged(module, "REAL_DATA_ACC_CACHE", accuracies),
        _results_of(module) as results,
        _quiet(),
    ):
        evaluator = package.LabelRobustScoreHard(
            **options,
            aug_params=dict(_DSA),
            random_data_format="tensor",
            random_data_path=str(Path(options["save_path"]).parent / "tensors"),
            eval_full_data=key not in accuracies,
        )
        _check_classes(evaluator, images, options["ipc"])
        evaluator.compute_metrics(image_tensor=images)
    return results


def _augmentation_scores(
    package: Any, hearing: Hearing, options: Mapping[str, Any], images: torch.Tensor
) -> Mapping[str, Any]:
    from torchvision import transforms

    module = import_module(package.AugmentationRobustScore.__module__)
    steps = [
        transforms.Resize(options["im_size"]),
        transforms.ToTensor(),
        transforms.Normalize(*DD_RANKING_NORMALIZATION[hearing.dataset]),
    ]
    with _results_of(module) as results, _quiet():
        evaluator = package.AugmentationRobustScore(
            **options,
            aug_params=dict(_DSA),
            label_type="hard",
            random_data_format="image",
            random_data_path=str(Path(options["save_path"]).parent / "images"),
            custom_train_trans=transforms.Compose(steps),
        )
        # It asks for both with hard labels, and has none then. Both loaders have the same images:
        # there is no transform of our own.
        evaluator.teacher_models = None
        evaluator.test_loader_real = evaluator.test_loader_syn
        evaluator.compute_metrics(image_tensor=images)
    return results


def _check_classes(evaluator: Any, images: torch.Tensor, per_class: int) -> None:
    if evaluator.num_classes * per_class != len(images):
        raise ValueError(
            f"the set must have the {evaluator.num_classes} classes of DD-Ranking's "
            f"{evaluator.dataset}, got {len(images) // per_class}"
        )


@contextlib.contextmanager
def _results_of(module: Any) -> Iterator[dict[str, Any]]:
    """Take the lists of scores in the place of the file that they would be written to."""
    results: dict[str, Any] = {}
    with _exchanged(module, "save_results", lambda scores, path: results.update(scores)):
        yield results


@contextlib.contextmanager
def _exchanged(module: Any, name: str, value: Any) -> Iterator[None]:
    """Give a module another value of a name, and put the old one back."""
    old = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, old)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what the judge prints for every batch, and its warnings; its bars stay."""
    with Path(os.devnull).open("w") as nowhere, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as of calls that torch will not take for ever
        with contextlib.redirect_stdout(nowhere):
            yield


def _points(scores: Any) -> tuple[float, ...]:
    return tuple(float(score) for score in scores)
