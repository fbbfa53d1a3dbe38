"""The folder of a distilled set: images that anybody can load, exact tensors, and the recipe.

    README.md                           the card (`card`)
    data/train-00000-of-00001.parquet   image (PNG), label, soft_label: an ordinary image data set
    tensors.safetensors                 exact images, labels, step sizes, learned statistics
    recipe.json                         the record: how to train on it, and what came out of that
    preview.png                         all images in a grid

Nothing in it is executable. `reading` reads it, `push` publishes it.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from dd_plugin.data.synthetic import SyntheticSet
from dd_plugin.evaluation.training_images import pixel_levels
from dd_plugin.files import lock_of, locked, new_folder, write_together
from dd_plugin.hub.card.text import make_card, merge_card
from dd_plugin.hub.limits import Limits
from dd_plugin.hub.links import leaves
from dd_plugin.hub.reading import IMAGES, RECORD, SMALL_IMAGES, TENSORS, read_record, read_set
from dd_plugin.hub.record import (
    About,
    Evaluation,
    FileEntry,
    Images,
    Protocol,
    Record,
    Result,
    Source,
    TransformKind,
)
from dd_plugin.private import column_type

CARD = "README.md"
# The folder of `write_core` in a checkpoint.
CORE = "set"
# Of the preview, which is to be looked at.
_MOST_COLUMNS, _MOST_ROWS = 50, 20


def to_bytes(images: Tensor) -> Tensor:
    """Return images in [0, 1] as they are in an 8-bit file, uint8 of the same shape."""
    return pixel_levels(images).to(torch.uint8).cpu()


def grid(images: Tensor, columns: int, scale: int = 1) -> Any:
    """Return images ``(N, C, H, W)`` in [0, 1] as one Pillow image, row by row."""
    from PIL import Image
    from torchvision.utils import make_grid

    pixels = to_bytes(make_grid(images.detach().float().cpu(), columns, padding=1, pad_value=0.5))
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def preview(synthetic: SyntheticSet, images: Tensor | None = None) -> Any:
    """Return the images of a set as a Pillow image: a class per column, the first ones of many.

    Args:
        synthetic: the set.
        images: its images, where they are at hand.
    """
    order = torch.argsort(synthetic.labels, stable=True)
    classes = synthetic.recipe.num_classes
    images = (synthetic.images() if images is None else images).detach()[order]
    columns = min(classes, _MOST_COLUMNS)
    if len(images) % classes == 0:
        sorted_ = images.unflatten(0, (classes, -1))[:columns, :_MOST_ROWS]
        images = sorted_.transpose(0, 1).flatten(0, 1)
    images = images[: columns * _MOST_ROWS]
    return grid(images, columns, max(1, 64 // synthetic.recipe.shape[-1]))


def write_set(
    folder: Path,
    synthetic: SyntheticSet,
    *,
    initial: Mapping[str, Tensor] | None = None,
    results: Mapping[str, Result | Mapping[str, Any]] | None = None,
    protocol: Protocol | Mapping[str, Any] | None = None,
    source: Source | Mapping[str, Any] | None = None,
    about: About | Mapping[str, Any] | None = None,
) -> None:
    """Write a distilled set: everything is written under other names first, then renamed.

    Of a set that was in the folder before, what its user wrote into the card is kept.

    Args:
        folder: created where it is missing.
        synthetic: the set.
        initial: the weights that every network starts from, for a fixed initialization.
        results: accuracies by name: ``mean``, ``std``, ``accuracies`` and ``seeds``.
        protocol: how they were taken: ``dataset``, ``split``, ``images``, ``command``.
        source: what was distilled: ``dataset``, ``hub_id``, ``train_split``, ``images``,
            ``licenses``.
        about: versions and settings that belong to the record.

    Raises:
        OSError: the folder cannot be written; it is as it was then.
    """
    record = _record(synthetic, results=results, protocol=protocol, source=source, about=about)
    _write_whole_set(folder, synthetic, _tensor_file(synthetic, initial), record)


def write_core(
    folder: Path,
    synthetic: SyntheticSet,
    *,
    initial: Mapping[str, Tensor] | None = None,
    protocol: Protocol | None = None,
    source: Source | None = None,
    about: About | None = None,
) -> None:
    """Write the record and the tensors of a set, of which `write_whole_from` makes a whole one.

    Args:
        folder: created where it is missing.
        synthetic: see `write_set`.
        initial: see `write_set`.
        protocol: see `write_set`.
        source: see `write_set`.
        about: see `write_set`.

    Raises:
        OSError: the folder cannot be written.
    """
    tensors = _tensor_file(synthetic, initial)
    record = _record(synthetic, results=None, protocol=protocol, source=source, about=about)
    record = replace(record, files={TENSORS: _entry(tensors)})
    write_together(folder, {TENSORS: tensors, RECORD: _json_of(record)})


def write_whole_from(core: Path, folder: Path, limits: Limits) -> int:
    """Write a whole set from the record and tensors of `write_core`.

    Args:
        core: where these are.
        folder: new or empty.
        limits: how large its parts may be.

    Returns:
        The number of images.

    Raises:
        DistilledFormatError: there are none, or they are damaged or too large.
        ValueError: the folder holds something.
        OSError: it cannot be written; then nothing is left of it.
    """
    stored = read_set(core, limits=limits, names=(TENSORS,))
    with new_folder(folder) as partial:
        # The bytes and not what was read of them: the same to the last bit.
        _write_whole_set(partial, stored.synthetic, (core / TENSORS).read_bytes(), stored.record)
    return len(stored.synthetic.labels)


def _tensor_file(synthetic: SyntheticSet, initial: Mapping[str, Tensor] | None) -> bytes:
    # What is stored smaller is enlarged again when it is read, to the same bits.
    whole = synthetic.parametrization.factor == 1
    tensors = {
        "images" if whole else SMALL_IMAGES: synthetic.parametrization.stored(),
        "labels": synthetic.labels,
        "step_sizes": synthetic.step_sizes(),
        **{f"constants.{name}": t for name, t in synthetic.constants().items()},
        **{f"transform.{name}": t for name, t in synthetic.transform.to_tensors().items()},
        **{f"initial.{name}": t for name, t in (initial or {}).items()},
    }
    if synthetic.learned_labels is not None:
        tensors["soft_labels"] = synthetic.targets()
    return save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})


def _record(
    synthetic: SyntheticSet,
    *,
    results: Mapping[str, Result | Mapping[str, Any]] | None,
    protocol: Protocol | Mapping[str, Any] | None,
    source: Source | Mapping[str, Any] | None,
    about: About | Mapping[str, Any] | None,
) -> Record:
    """Return the record of a set, without its files."""
    count = len(synthetic.labels)
    return Record(
        recipe=synthetic.recipe,
        transform=TransformKind.from_json(synthetic.transform.metadata()),
        images=Images(
            count=count,
            per_class=count / synthetic.recipe.num_classes,
            upsample_factor=synthetic.parametrization.factor,
            soft_labels=synthetic.learned_labels is not None,
            label_form=synthetic.label_form,
            learned_step_sizes=synthetic.log_step_sizes.requires_grad,
        ),
        source=source if isinstance(source, Source) else Source.from_json(source or {}),
        results={
            name: result if isinstance(result, Result) else Result.from_json(result)
            for name, result in (results or {}).items()
        },
        protocol=protocol if isinstance(protocol, Protocol) else Protocol.from_json(protocol or {}),
        about=about if isinstance(about, About) else About.from_json(about or {}),
        files={},
    )


def _write_whole_set(folder: Path, synthetic: SyntheticSet, tensors: bytes, record: Record) -> None:
    images = synthetic.images().detach()
    parquet, num_bytes = _parquet(synthetic, images)
    picture = io.BytesIO()
    preview(synthetic, images).save(picture, "PNG")
    files = {IMAGES: parquet, TENSORS: tensors, "preview.png": picture.getvalue()}
    record = replace(
        record,
        images=replace(record.images, num_bytes=num_bytes),
        files={name: _entry(content) for name, content in files.items()},
    )
    with instead_of_the_set_in(folder):
        record = record.with_evaluations(_evaluations_of(folder, record.files[TENSORS]))
        write_together(folder, {**files, **_record_files(folder, record)})


def _entry(content: bytes) -> FileEntry:
    return FileEntry(size=len(content), sha256=hashlib.sha256(content).hexdigest())


def _evaluations_of(folder: Path, tensors: FileEntry) -> tuple[Evaluation, ...]:
    """Return the rows that a folder has of the same set."""
    try:
        old = read_record(folder)
        return old.evaluations if old.files[TENSORS].sha256 == tensors.sha256 else ()
    except (OSError, ValueError, KeyError):
        return ()


def write_record(folder: Path, record: Record) -> None:
    """Write another record of the set in a folder, and the card that follows from it.

    The caller, who has read the earlier record, keeps it `locked` meanwhile.

    Raises:
        OSError: the folder cannot be written; it is as it was then.
    """
    write_together(folder, _record_files(folder, record))


def _record_files(folder: Path, record: Record) -> dict[str, bytes]:
    card, old = make_card(record), folder / CARD
    if old.is_file() and leaves(folder, old):
        warnings.warn(
            f"{old} is a link to a file outside of its folder, so a new card takes its place; that "
            "file stays as it is",
            stacklevel=4,
        )
    elif old.is_file():
        try:
            card = merge_card(card, old.read_text("utf-8"))
        except ValueError as error:
            kept = folder / "README.old.md"
            shutil.copyfile(old, kept)
            warnings.warn(f"{old} was made anew, the old one is {kept}: {error}", stacklevel=4)
    return {
        CARD: card.encode(),
        RECORD: _json_of(record),
    }


def _json_of(record: Record) -> bytes:
    return (json.dumps(record.to_json(), indent=1) + "\n").encode()


@contextmanager
def instead_of_the_set_in(folder: Path) -> Iterator[None]:
    """While a set takes the place of one to whose record an evaluation may be adding a row."""
    with ExitStack() as stack:
        # Where no row was ever added there is no lock, and none is left in the folder of a new set.
        if lock_of(folder / RECORD).exists():
            # A set is not lost for want of a lock.
            with suppress(OSError):
                stack.enter_context(locked(folder / RECORD))
        yield


def _parquet(synthetic: SyntheticSet, shown: Tensor) -> tuple[bytes, int]:
    """Return the content of the Parquet file, and the bytes of its rows in memory.

    Written by pyarrow alone, with the types of the columns where `datasets` looks for them, so that
    a set can be written on a machine that has no `datasets`.
    """
    import pyarrow
    from PIL import Image as PillowImage
    from pyarrow import parquet

    def encoded(pixels: Tensor) -> dict[str, Any]:
        array = pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy()
        content = io.BytesIO()
        PillowImage.fromarray(array).save(content, "PNG")
        return {"bytes": content.getvalue(), "path": None}

    with ThreadPoolExecutor() as pool:  # Pillow encodes without holding up other threads
        images = list(pool.map(encoded, to_bytes(shown)))
    file = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    columns: dict[str, Any] = {
        "image": pyarrow.array(images, file),
        "label": pyarrow.array(synthetic.labels.tolist(), pyarrow.int64()),
    }
    features: dict[str, Any] = {
        "image": column_type("Image"),
        "label": column_type("ClassLabel", names=list(synthetic.recipe.class_names)),
    }
    if synthetic.learned_labels is not None:
        weights = synthetic.targets().detach().cpu().tolist()
        columns["soft_label"] = pyarrow.array(weights, pyarrow.list_(pyarrow.float32()))
        weight = column_type("Value", dtype="float32")
        features["soft_label"] = column_type("List", feature=weight)
    types = json.dumps({"info": {"features": features}})
    rows = pyarrow.table(columns).replace_schema_metadata({"huggingface": types})
    content = io.BytesIO()
    parquet.write_table(rows, content)
    return content.getvalue(), rows.nbytes
