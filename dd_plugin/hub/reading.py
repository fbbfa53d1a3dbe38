"""Reading the folder of a distilled set that a stranger may have written: `read_set`.

Beside `folder`, which writes. Only files with fixed names are read, each after a look at its size;
nothing in them is executed, and every value is checked before it is used, so that a folder that was
cut short, damaged or made to do harm ends in a `DistilledFormatError` that says what is wrong with
which file.
"""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dd_plugin.data.parametrization import Parametrization, Pixels, Upsampled
from dd_plugin.data.recipe import Recipe
from dd_plugin.data.synthetic import SyntheticSet
from dd_plugin.data.transforms import transform_from
from dd_plugin.files import under
from dd_plugin.hub.limits import DistilledFormatError, Limits
from dd_plugin.hub.record import MOST_FACTOR, FileEntry, Record
from dd_plugin.text import described

RECORD, TENSORS, IMAGES = "recipe.json", "tensors.safetensors", "data/train-00000-of-00001.parquet"

_OF_CHECKPOINT = "; it is a checkpoint of a run, and `dd-plugin export` makes a set of it"
_MOST_RECORD_BYTES = 8 << 20
# Bytes of the header of the tensors' file, for each tensor that it may list.
_HEADER_BYTES_PER_TENSOR = 1 << 10
_MOST_DIMENSIONS = 16
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# The tensor that an upsampled set has in the place of "images".
SMALL_IMAGES = "small_images"
_KNOWN = ("images", SMALL_IMAGES, "labels", "step_sizes", "soft_labels")
_PREFIXES = ("constants.", "transform.", "initial.")


@dataclass(frozen=True)
class StoredSet:
    """The contents of a folder.

    Attributes:
        synthetic: the set, on the CPU.
        initial: weights and statistics that networks start from, for a fixed initialization.
        record: all of ``recipe.json``.
        limits: how large the networks of its recipe may be.
    """

    synthetic: SyntheticSet
    initial: dict[str, Tensor]
    record: Record
    limits: Limits = field(default_factory=Limits)


def read_set(
    folder: str | Path,
    *,
    limits: Limits | None = None,
    checksums: Mapping[str, str] | None = None,
    names: Sequence[str] = (IMAGES, TENSORS),
) -> StoredSet:
    """Read and check a distilled set.

    Args:
        folder: as `dd_plugin.hub.folder.write_set` writes it.
        limits: how large its parts may be.
        checksums: SHA-256 of files that were taken just now, by name, not to be taken again.
        names: the files beside the record; a checkpoint has the tensors alone.

    Raises:
        DistilledFormatError: it is no set, or a newer, incomplete or damaged one.
    """
    folder, limits = Path(folder), limits or Limits()
    record = read_record(folder)
    for name in names:
        size = _size(folder, name)
        limits.check("max_bytes", size, f"{folder / name} has", " bytes")
        digest = (checksums or {}).get(name) or sha256_of(folder / name)
        if (entry := record.files.get(name)) is None:
            raise DistilledFormatError(f"{folder / RECORD} has no checksum of {name}")
        _compare(folder / name, size, digest, entry)
    tensors = _tensors(folder, limits)
    try:
        steps = record.recipe.steps
        limits.check("max_steps", steps, f"{folder / RECORD} asks for", " training steps")
        synthetic = _assemble(record, tensors, limits)
        record.images.check(len(synthetic.labels))
    except DistilledFormatError:
        raise
    except (ValueError, TypeError, KeyError, OverflowError, RuntimeError) as error:
        raise DistilledFormatError(
            f"{folder / RECORD} cannot be used: {described(error)}"
        ) from error
    return StoredSet(synthetic, under(tensors, "initial."), record, limits)


def read_record(folder: Path) -> Record:
    """Read ``recipe.json``.

    Raises:
        DistilledFormatError: see `read_set`.
    """
    path = folder / RECORD
    if not path.exists():
        raise DistilledFormatError(
            f"{str(folder)!r} is not a distilled set: it has no {RECORD}"
            + ("" if folder.is_dir() else " (and there is no such folder)")
            + (_OF_CHECKPOINT if (folder / "state.json").is_file() else "")
        )
    if (size := _size(folder, RECORD)) > _MOST_RECORD_BYTES:
        raise DistilledFormatError(
            f"{path} has {size:,} bytes, over the limit of {_MOST_RECORD_BYTES:,} for a record; it "
            "is damaged: copy or download the whole folder again"
        )

    def not_a_number(word: str) -> Any:
        raise ValueError(f"{word} is no value of JSON")

    try:
        record = json.loads(path.read_text("utf-8"), parse_constant=not_a_number)
    except (OSError, ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise DistilledFormatError(f"{path} cannot be read as JSON: {reason}") from error
    try:
        return Record.from_json(record)
    except DistilledFormatError as error:
        raise DistilledFormatError(f"{path}: {error}") from error


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(folder: Path, name: str) -> int:
    path = folder / name
    try:
        info = path.stat()
    except OSError as error:
        raise DistilledFormatError(
            f"{str(folder)!r} is incomplete: {name} cannot be had ({error.strerror or error}); "
            "copy or download the whole folder again"
        ) from error
    if not stat.S_ISREG(info.st_mode):
        raise DistilledFormatError(f"{path} is not a file")
    return info.st_size


def _compare(path: Path, size: int, digest: str, entry: FileEntry) -> None:
    """Check a file against the size and checksum that the record has of it."""
    if entry.size != size or entry.sha256 != digest:
        raise DistilledFormatError(
            f"{path} is not the file that was written with {RECORD}: "
            + (
                f"it has {size:,} bytes instead of {entry.size!r:.20}"
                if entry.size != size
                else "its checksum differs"
            )
            + "; copy or download the whole folder again"
        )


def _tensors(folder: Path, limits: Limits) -> dict[str, Tensor]:
    path = folder / TENSORS
    try:
        with path.open("rb") as opened:
            header = int.from_bytes(opened.read(8), "little")
        if header > _HEADER_BYTES_PER_TENSOR * limits.max_tensors:
            limits.check(
                "max_tensors",
                header // _HEADER_BYTES_PER_TENSOR,
                f"{path} cannot be read: its header of {header:,} bytes has room for",
                " tensors",
            )
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            limits.check("max_tensors", len(names), f"{path} has", " tensors")
            unknown = [n for n in names if n not in _KNOWN and not n.startswith(_PREFIXES)]
            if unknown:
                raise DistilledFormatError(
                    f"{path} has a tensor {unknown[0]!r:.80} of no known use"
                )
            for name in names:
                dimensions = len(file.get_slice(name).get_shape())
                if dimensions > _MOST_DIMENSIONS:
                    raise DistilledFormatError(
                        f"{path}: {name!r:.80} must have at most {_MOST_DIMENSIONS} dimensions, "
                        f"got {dimensions}"
                    )
            tensors = {name: file.get_tensor(name) for name in names}
    except DistilledFormatError:
        raise
    except (
        SafetensorError,
        AttributeError,
        LookupError,
        OSError,
        OverflowError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise DistilledFormatError(f"{path} cannot be read: {described(error)}") from error
    for name, tensor in tensors.items():
        if tensor.dtype not in (*FLOATS, torch.int64):
            raise DistilledFormatError(f"{path}: {name!r:.80} must not be {tensor.dtype}")
        if not tensor.is_floating_point():
            continue
        # A network may have infinite buffers, as masks of attention are.
        start = name.startswith("initial.")
        if bool((tensor.isnan() if start else ~tensor.isfinite()).any()):
            what = "numbers" if start else "finite"
            raise DistilledFormatError(f"{path}: {name!r:.80} has values that are not {what}")
    return tensors


def _parametrization(recipe: Recipe, name: str, pixels: Tensor, limits: Limits) -> Parametrization:
    """Return the images, as they are or stored smaller."""
    small = name == SMALL_IMAGES
    factor, fits = 1, False
    if pixels.ndim == 4 and pixels.numel():
        channels, height, width = pixels.shape[1:]
        factor = recipe.shape[1] // height if small else 1
        fits = recipe.shape == (channels, height * factor, width * factor)
    if not fits or factor > MOST_FACTOR:
        whole = f"(N, {', '.join(map(str, recipe.shape))})"
        parts = f", a whole number of times smaller, up to {MOST_FACTOR}" if small else ""
        raise DistilledFormatError(f"{name} must be {whole}{parts}, got {tuple(pixels.shape)}")
    if pixels.dtype not in FLOATS or float(pixels.min()) < 0 or float(pixels.max()) > 1:
        raise DistilledFormatError(f"{name} must be floating-point numbers from 0 to 1")
    side = max(recipe.shape[1:])
    limits.check("max_image_size", side, f"{name} would have a side of", " pixels")
    stored = pixels.numel() * pixels.element_size()
    limits.check_expanded(stored, stored * factor * factor, name)
    copies = max(recipe.augmentations_per_step, 1 + recipe.head_copies)
    batch = stored * factor * factor * copies
    limits.check_expanded(stored, batch, f"{copies} augmented copies of {name}")
    return Upsampled.of_stored(pixels, factor) if small else Pixels(pixels)


def _assemble(record: Record, tensors: Mapping[str, Tensor], limits: Limits) -> SyntheticSet:
    recipe = record.recipe
    small = SMALL_IMAGES in tensors and "images" not in tensors
    name_of_images = SMALL_IMAGES if small else "images"
    missing = {name_of_images, "labels", "step_sizes"} - set(tensors)
    if missing:
        raise DistilledFormatError(f"{TENSORS} has no {', '.join(sorted(missing))}")
    pixels = tensors[name_of_images]
    parametrization = _parametrization(recipe, name_of_images, pixels, limits)
    count, dtype = len(pixels), pixels.dtype
    labels, step_sizes = tensors["labels"], tensors["step_sizes"]
    if labels.dtype != torch.int64 or labels.shape != (count,):
        raise DistilledFormatError(
            f"labels must be int64 of shape ({count},), got {labels.dtype} {tuple(labels.shape)}"
        )
    if int(labels.min()) < 0 or int(labels.max()) >= recipe.num_classes:
        raise DistilledFormatError(
            f"labels must be from 0 to {recipe.num_classes - 1}, got {int(labels.min())} to "
            f"{int(labels.max())}"
        )
    constants = under(tensors, "constants.")
    soft = tensors.get("soft_labels")
    for name, tensor in (("step_sizes", step_sizes), ("soft_labels", soft), *constants.items()):
        if tensor is not None and tensor.dtype not in FLOATS:
            raise DistilledFormatError(f"{name!r:.80} must be floating-point, got {tensor.dtype}")
    form = None if soft is None else record.images.label_form or "probabilities"
    if soft is not None:
        # Before anything of that size is made.
        fits = soft.shape == (count, recipe.num_classes)
        if fits and form == "probabilities":
            fits = bool((soft >= 0).all()) and bool(((soft.sum(1) - 1).abs() <= 1e-2).all())
        if not fits:
            raise DistilledFormatError(
                f"soft_labels must be {form} ({count}, {recipe.num_classes})"
            )
    transform = transform_from(record.transform.to_json(), under(tensors, "transform."))
    with torch.no_grad():
        first = _parametrization(recipe, name_of_images, pixels[:1], limits)()
        network_input = transform(first)
    if network_input.shape != first.shape or not bool(network_input.isfinite().all()):
        raise DistilledFormatError("the transform does not fit the images")
    synthetic = SyntheticSet(
        recipe,
        parametrization,
        labels,
        step_sizes.to(dtype),
        transform=transform,
        constants=constants,
        soft_labels=form or False,
    )
    if soft is not None:
        synthetic.set_targets(soft.to(dtype))
    # Read to be used, not to be distilled further.
    return synthetic.requires_grad_(False)
