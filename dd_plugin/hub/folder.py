"""The folder of a distilled set: images that anybody can load, exact tensors, and the recipe.

    data/train-00000-of-00001.parquet   image (PNG), label, soft_label: an ordinary image data set
    tensors.safetensors                 exact images, labels, step sizes, learned statistics
    recipe.json                         how to train on it, and what came out of that
    preview.png                         all images in a grid

Written file by file under other names and then renamed, so that a folder that held a set before
never holds half of two.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from dd_plugin.data.synthetic import SyntheticSet

SCHEMA_VERSION = 1


def to_bytes(images: Tensor) -> Tensor:
    """Images in [0, 1] as they are in an 8-bit file, uint8 of the same shape."""
    return (images.detach().clamp(0, 1) * 255).round().to(torch.uint8).cpu()


def grid(images: Tensor, columns: int, scale: int = 1) -> Any:
    """Images ``(N, C, H, W)`` in [0, 1] as one Pillow image, row by row."""
    from PIL import Image
    from torchvision.utils import make_grid

    pixels = to_bytes(make_grid(images.detach().float().cpu(), columns, padding=1, pad_value=0.5))
    made = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    return made.resize((made.width * scale, made.height * scale), Image.Resampling.NEAREST)


def preview(synthetic: SyntheticSet) -> Any:
    """All images of a set, one class per column, as a Pillow image."""
    order = torch.argsort(synthetic.labels, stable=True)
    classes = synthetic.recipe.num_classes
    images = synthetic.images()[order]
    if len(images) % classes == 0:
        images = images.unflatten(0, (classes, -1)).transpose(0, 1).flatten(0, 1)
    return grid(images, classes, max(1, 64 // synthetic.recipe.shape[-1]))


def write_set(
    folder: Path,
    synthetic: SyntheticSet,
    *,
    initial: Mapping[str, Tensor] | None = None,
    results: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write a distilled set.

    Args:
        folder: made if need be; files of an earlier set in it are replaced.
        synthetic: the set.
        initial: the weights that every network starts from, for a fixed initialisation.
        results: accuracies and how they were taken.
        about: versions and settings that belong to the record.

    Raises:
        OSError: the folder cannot be written.
    """
    tensors = {
        "images": synthetic.images(),
        "labels": synthetic.labels,
        "step_sizes": synthetic.step_sizes(),
        **{f"constants.{name}": t for name, t in synthetic.constants().items()},
        **{f"transform.{name}": t for name, t in synthetic.transform.to_tensors().items()},
        **{f"initial.{name}": t for name, t in (initial or {}).items()},
    }
    if synthetic.label_logits is not None:
        tensors["soft_labels"] = synthetic.targets()
    record = {
        "schema_version": SCHEMA_VERSION,
        "recipe": synthetic.recipe.to_dict(),
        "transform": synthetic.transform.metadata(),
        "results": dict(results or {}),
        "about": dict(about or {}),
    }
    picture = io.BytesIO()
    preview(synthetic).save(picture, "PNG")
    files = {
        "data/train-00000-of-00001.parquet": _parquet(synthetic),
        "tensors.safetensors": save(
            {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
        ),
        "preview.png": picture.getvalue(),
        "recipe.json": (json.dumps(record, indent=1) + "\n").encode(),
    }
    for name, content in files.items():
        write_whole(folder / name, content)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or as it was before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the progress bars of `datasets`, which say nothing about a set of this size."""
    import datasets

    were_disabled = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not were_disabled:
            datasets.enable_progress_bars()


def _parquet(synthetic: SyntheticSet) -> bytes:
    from datasets import ClassLabel, Dataset, Features, Image, List, Value
    from PIL import Image as PillowImage

    rows: dict[str, list[Any]] = {"image": [], "label": synthetic.labels.tolist()}
    for pixels in to_bytes(synthetic.images()):
        array = pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy()
        content = io.BytesIO()
        PillowImage.fromarray(array).save(content, "PNG")
        rows["image"].append({"bytes": content.getvalue(), "path": None})
    features: dict[str, Any] = {
        "image": Image(),
        "label": ClassLabel(names=list(synthetic.recipe.class_names)),
    }
    if synthetic.label_logits is not None:
        rows["soft_label"] = synthetic.targets().detach().cpu().tolist()
        features["soft_label"] = List(Value("float32"))
    content = io.BytesIO()
    with _quietly():
        Dataset.from_dict(rows, features=Features(features)).to_parquet(content)
    return content.getvalue()
