"""A distilled set in the forms of other tools: an image folder, and the files of DD-Ranking.

`DistilledDataset` calls these with its tensors. Both forms lose something (the recipe, and the
image folder the exact pixels), so they are for use elsewhere and not for keeping.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from dd_plugin.data.synthetic import SyntheticSet
from dd_plugin.files import new_folder
from dd_plugin.hub.folder import to_bytes

# Channel means and deviations that DD-Ranking 0.2 (`ddranking/utils/data.py`) normalizes its test
# images with, by its names of data sets; those of CIFAR-10 serve for CIFAR-100, too.
_CIFAR = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
DD_RANKING_NORMALIZATION: Final[
    Mapping[str, tuple[tuple[float, float, float], tuple[float, float, float]]]
] = {
    "CIFAR10": _CIFAR,
    "CIFAR100": _CIFAR,
    "TinyImageNet": _IMAGENET,
    "ImageNet1K": _IMAGENET,
    "ImageNette": _IMAGENET,
    "ImageWoof": _IMAGENET,
    "ImageMeow": _IMAGENET,
    "ImageSquawk": _IMAGENET,
    "ImageFruit": _IMAGENET,
    "ImageYellow": _IMAGENET,
}

_PORTABLE = re.compile(r"[A-Za-z0-9][\w ,'()+=-]{0,99}(?<! )", re.ASCII)
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)", re.IGNORECASE)
# Folder names that timm and `datasets` take for a split of the data.
_SPLITS = re.compile(
    r"(?<![^-._ 0-9])(train|training|validation|valid|val|dev|test|testing|eval|evaluation)"
    r"(?![^-._ 0-9])",
    re.IGNORECASE,
)


def export_image_folder(
    folder: Path, images: Tensor, labels: Tensor, class_names: Sequence[str]
) -> None:
    """Write images as ``folder/CLASS/00000.png``.

    torchvision's `ImageFolder`, timm's `create_dataset` and `datasets` read it, and number the
    classes by the order of their folders. So that this is the order of ``class_names``, folders
    have plain class names only where they sort that way, and else ``0_name``, ``1_name``, ...;
    characters that not every file system takes become ``_``, and a class ``train`` becomes
    ``trainclass``, lest it be taken for a split of the data.

    Args:
        folder: new or empty.
        images: ``(N, C, H, W)`` in [0, 1], gray or RGB; rounded to 8 bits.
        labels: class indices ``(N,)``.
        class_names: in the order of the labels.

    Raises:
        ValueError: shapes, labels or names do not fit, the folder holds something, or a class has
            no image, as those after it would be numbered wrongly.
        OSError: the folder cannot be written; then nothing is left of it.
    """
    from PIL import Image

    _check(images, labels)
    if images.shape[1] not in (1, 3):
        raise ValueError(f"`images` must be (N, 1 or 3, H, W), got {tuple(images.shape)}")
    counts = _counts(labels, len(class_names))
    if not all(counts):
        raise ValueError(
            "every class must have an image, since folders number the classes, got none of "
            f"{class_names[counts.index(0)]!r}; use the Parquet file, which names the classes"
        )
    names = _folder_names(class_names)
    written = [0] * len(names)
    with new_folder(folder) as partial:
        for name in names:
            (partial / name).mkdir()
        for pixels, label in zip(to_bytes(images), labels.tolist(), strict=True):
            array = pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy()
            Image.fromarray(array).save(partial / names[label] / f"{written[label]:05d}.png")
            written[label] += 1


def export_dd_ranking(
    folder: Path,
    images: Tensor,
    labels: Tensor,
    soft_labels: Tensor | None = None,
    step_size: float | None = None,
    *,
    dataset: str | None = None,
) -> None:
    """Write the three files that DD-Ranking (arXiv 2505.13300) is given.

    | file | content |
    |---|---|
    | ``images.pt`` | ``(N, C, H, W)``, float32, what the network is fed, sorted by class |
    | ``labels.pt`` | log-probabilities ``(N, classes)``, or class indices ``(N,)`` |
    | ``lr.pt`` | the step size, 0-d; only if there is one |

    They are what its evaluators' `compute_metrics` takes as ``image_tensor``, ``soft_labels`` or
    ``hard_labels``, and ``syn_lr``, after `torch.load`. What decides the form, in DD-Ranking 0.2:

    - it trains on the images as they are, and tests on real ones that it normalized with
      `DD_RANKING_NORMALIZATION`: so pixels have to be normalized alike;
    - its losses put soft labels through a softmax with a temperature, so they are logits; the
      logarithm of the probabilities gives them back at temperature 1
      (``loss_fn_kwargs: {temperature: 1.0}``, where its default is 1.2);
    - its hard labels are as many of each class as ``ipc`` says, class after class;
    - without a step size it searches one of five.

    Args:
        folder: new or empty.
        images: ``(N, C, H, W)``; pixels in [0, 1] where ``dataset`` is given, and network input
            otherwise (for its ``use_zca``: ZCA whitened by kornia with eps 0.1, fitted on pixels
            that were not normalized, which is not what a set learned with ZCA here has).
        labels: class indices ``(N,)``, as many of each class.
        soft_labels: probabilities ``(N, classes)``.
        step_size: of SGD.
        dataset: DD-Ranking's name of the real data, one of `DD_RANKING_NORMALIZATION`.

    Raises:
        ValueError: shapes do not fit together, classes differ in their number of images, the data
            set is not one of DD-Ranking's, or the folder holds something.
        OSError: the folder cannot be written; then nothing is left of it.
    """
    _check(images, labels)
    images = images.detach().cpu().float()
    if dataset is not None:
        images = _normalized(images, dataset)
    counts = _counts(labels, int(labels.max()) + 1)
    if len(set(counts)) > 1:
        raise ValueError(
            "every class must have as many images as the others, as DD-Ranking takes it for "
            f"granted, got {min(counts)} to {max(counts)}"
        )
    order = torch.argsort(labels.cpu(), stable=True)
    files = {"images.pt": images[order], "labels.pt": labels.detach().cpu().long()[order]}
    if soft_labels is not None:
        if soft_labels.ndim != 2 or len(soft_labels) != len(labels):
            raise ValueError(
                f"`soft_labels` must be ({len(labels)}, classes), got {tuple(soft_labels.shape)}"
            )
        probabilities = soft_labels.detach().cpu().float()
        smallest = torch.finfo(torch.float32).tiny
        files["labels.pt"] = probabilities.clamp_min(smallest).log()[order]
    if step_size is not None:
        files["lr.pt"] = torch.tensor(float(step_size))
    with new_folder(folder) as partial:
        for name, tensor in files.items():
            content = io.BytesIO()
            torch.save(tensor.contiguous().clone(), content)
            # Not by torch, which says "unexpected pos" where there is no room.
            (partial / name).write_bytes(content.getbuffer())


def export_set_for_dd_ranking(
    folder: Path, synthetic: SyntheticSet, *, dataset: str | None = None
) -> None:
    """Write the files of a distilled set; see `export_dd_ranking`.

    Warns:
        UserWarning: the set was distilled for another optimizer than SGD.

    Raises:
        ValueError: learned labels are no probabilities, or see `export_dd_ranking`.
        OSError: see `export_dd_ranking`.
    """
    if synthetic.label_form == "weights":
        raise ValueError(
            "DD-Ranking takes labels that are probabilities, and this set was distilled with "
            '`label_form: weights`; distill with "probabilities", or export an image folder'
        )
    images, optimizer = synthetic.images().detach(), synthetic.recipe.optimizer
    learned = synthetic.learned_labels is not None
    export_dd_ranking(
        folder,
        images if dataset else synthetic.transform(images),
        synthetic.labels,
        soft_labels=synthetic.targets().detach() if learned else None,
        step_size=float(synthetic.step_sizes().detach().mean()),
        dataset=dataset,
    )
    if optimizer != "sgd":
        warnings.warn(
            f"lr.pt must be a step size of SGD for DD-Ranking, got one of {optimizer}, for "
            f"which this set was distilled; have its evaluator train with {optimizer}, or "
            "leave `syn_lr` out, and it searches a step size",
            stacklevel=3,
        )


def _normalized(images: Tensor, dataset: str) -> Tensor:
    if dataset not in DD_RANKING_NORMALIZATION:
        raise ValueError(
            f"`dataset` must be one of {', '.join(DD_RANKING_NORMALIZATION)}, got {dataset!r}; "
            "leave it out if `images` are network input"
        )
    if images.shape[1] != 3:
        raise ValueError(f"`images` of {dataset} must be (N, 3, H, W), got {tuple(images.shape)}")
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in DD_RANKING_NORMALIZATION[dataset])
    return (images - mean) / std


def _check(images: Tensor, labels: Tensor) -> None:
    if images.ndim != 4 or not len(images):
        raise ValueError(f"`images` must be (N, C, H, W), got {tuple(images.shape)}")
    if labels.shape != (len(images),) or labels.is_floating_point():
        raise ValueError(
            f"`labels` must be {len(images)} class indices, got {labels.dtype} of shape "
            f"{tuple(labels.shape)}"
        )


def _counts(labels: Tensor, classes: int) -> list[int]:
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise ValueError(
            f"`labels` must lie between 0 and {classes - 1}, one for each class, got "
            f"{int(labels.min())} to {int(labels.max())}"
        )
    counts: list[int] = torch.bincount(labels.cpu(), minlength=classes).tolist()
    return counts


def _folder_names(class_names: Sequence[str]) -> list[str]:
    """Return one folder name per class, in the same order by every rule of sorting."""
    names = list(class_names)
    plain = all(
        _PORTABLE.fullmatch(name) and not _RESERVED.fullmatch(name) and not _SPLITS.search(name)
        for name in names
    )
    distinct = len({name.lower() for name in names}) == len(names)
    if plain and distinct and names == sorted(names) == sorted(names, key=_natural):
        return names
    width = len(str(max(len(names) - 1, 0)))
    return [f"{i:0{width}d}_{_portable(name)}" for i, name in enumerate(names)]


def _portable(name: str) -> str:
    kept = re.sub(r"[^\w ,'()+=-]", "_", name, flags=re.ASCII)[:100].strip()
    return _SPLITS.sub(r"\1class", kept) or "class"


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """Return the key by which timm sorts classes: without case, numbers by their value."""
    words = re.split(r"(\d+)", name.lower())
    return [(not w.isdigit(), int(w) if w.isdigit() else 0, w) for w in words]
