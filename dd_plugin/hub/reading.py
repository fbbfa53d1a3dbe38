"""Reading the folder of a distilled set, from whoever wrote it: `read_set`.

Beside `folder`, which writes. Only files with fixed names are read, each after a look at its size;
nothing in them is executed, and every value is checked before it is used, so that a folder that was
cut short, damaged or made to do harm ends in a `DistilledFormatError` that says what is wrong with
which file.
"""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dd_plugin.data.parametrization import Parametrization, Pixels, Upsampled
from dd_plugin.data.recipe import Recipe
from dd_plugin.data.synthetic import LabelForm, SyntheticSet
from dd_plugin.data.transforms import transform_from
from dd_plugin.hub.limits import DistilledFormatError, Limits
from dd_plugin.text import described

SCHEMA_VERSION = 1
RECORD, TENSORS, IMAGES = "recipe.json", "tensors.safetensors", "data/train-00000-of-00001.parquet"

_MOST_RECORD_BYTES = 8 << 20
# Bytes of the header of the tensors' file, for each tensor that it may list.
_HEADER_BYTES_PER_TENSOR = 1 << 10
_MOST_DIMENSIONS = 16
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# The tensor that an upsampled set has in the place of "images".
SMALL_IMAGES = "small_images"
_KNOWN = ("images", SMALL_IMAGES, "labels", "step_sizes", "soft_labels")
_MOST_FACTOR = 64
_PREFIXES = ("constants.", "transform.", "initial.")


@dataclass(frozen=True)
class StoredSet:
    """What a folder holds.

    Attributes:
        synthetic: the set, on the CPU.
        initial: weights and statistics that networks start from, for a fixed initialisation.
        record: all of ``recipe.json``.
    """

    synthetic: SyntheticSet
    initial: dict[str, Tensor]
    record: dict[str, Any]


def read_set(
    folder: str | Path,
    *,
    limits: Limits | None = None,
    checksums: Mapping[str, str] | None = None,
) -> StoredSet:
    """Read and check a distilled set.

    Args:
        folder: as `dd_plugin.hub.folder.write_set` writes it.
        limits: how large its parts may be.
        checksums: SHA-256 of files that were taken just now, by name, not to be taken again.

    Raises:
        DistilledFormatError: it is none, of a newer kind, incomplete, or damaged.
    """
    folder, limits = Path(folder), limits or Limits()
    record = read_record(folder)
    for name in (IMAGES, TENSORS):
        size = _size(folder, name)
        limits.check("max_bytes", size, f"{folder / name} has", " bytes")
        digest = (checksums or {}).get(name) or sha256_of(folder / name)
        _compare(folder, name, size, digest, record)
    tensors = _tensors(folder, limits)
    try:
        recipe = Recipe.from_dict(record["recipe"])
        limits.check("max_steps", recipe.steps, f"{folder / RECORD} asks for", " training steps")
        synthetic = _assemble(recipe, record, tensors, limits)
        _check_counts(record["images"], len(synthetic.labels))
    except DistilledFormatError:
        raise
    except (ValueError, TypeError, KeyError, OverflowError, RuntimeError) as error:
        raise DistilledFormatError(
            f"{folder / RECORD} cannot be used: {described(error)}"
        ) from error
    return StoredSet(synthetic, _named(tensors, "initial."), record)


def read_record(folder: Path) -> dict[str, Any]:
    """Read ``recipe.json`` and check what is not the recipe's own.

    Raises:
        DistilledFormatError: see `read_set`.
    """
    path = folder / RECORD
    if not path.exists():
        raise DistilledFormatError(
            f"{str(folder)!r} is not a distilled set: it has no {RECORD}"
            + ("" if folder.is_dir() else " (and there is no such folder)")
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
    if not isinstance(record, dict) or "schema_version" not in record:
        raise DistilledFormatError(
            f"{path} is not the record of a distilled set: it has no schema_version"
        )
    found = record["schema_version"]
    if type(found) is not int or found < 1:
        raise DistilledFormatError(
            f"{path}: `schema_version` must be a whole number, got {found!r:.40}"
        )
    if found > SCHEMA_VERSION:
        raise DistilledFormatError(
            f"{path} has schema version {found}; this version of dd_plugin reads up to "
            f"{SCHEMA_VERSION}. Install a newer one: pip install -U dd-plugin"
        )
    for name in ("recipe", "transform", "files"):
        if not isinstance(record.get(name), dict):
            raise DistilledFormatError(f"{path} must have an object {name!r}")
    for name in ("images", "source", "results", "protocol", "about"):
        if not isinstance(record.setdefault(name, {}), dict):
            raise DistilledFormatError(f"{path}: {name!r} must be an object")
    if not isinstance(record.setdefault("evaluations", []), list):
        raise DistilledFormatError(f"{path}: 'evaluations' must be a list")
    _check_told(path, record)
    return record


def _check_told(path: Path, record: Mapping[str, Any]) -> None:
    """Check what the card and an evaluation take from the record, apart from the images."""

    def require(right: bool, name: str, what: str) -> None:
        if not right:
            raise DistilledFormatError(f"{path}: {name!r} must be {what}")

    parts = [("about", "config"), ("about", "network"), ("about", "versions")]
    for part, name in [*parts, ("results", "distilled")]:
        found = record[part].get(name)
        require(found is None or isinstance(found, dict), f"{part}.{name}", "an object or null")
    for part, names in (("source", ("dataset", "train_split")), ("protocol", ("dataset", "split"))):
        for name in names:
            found = record[part].get(name)
            require(found is None or isinstance(found, str), f"{part}.{name}", "a text or null")
    found = record["source"].get("licenses")
    listed = found if isinstance(found, list) else [] if found is None else [found]
    right = all(isinstance(name, str) for name in listed)
    require(right, "source.licenses", "a list of texts")
    right = all(isinstance(row, dict) for row in record["evaluations"])
    require(right, "evaluations", "a list of objects")


def _check_counts(images: Mapping[str, Any], number: int) -> None:
    """Check what the record says of the images as a whole."""

    def whole(value: Any, least: int, most: int) -> bool:
        return type(value) is int and least <= value <= most

    if not whole(found := images.get("count"), number, number):
        raise DistilledFormatError(f"`count` of the images must be {number}, got {found!r:.40}")
    found = images.get("per_class")
    if not isinstance(found, int | float) or isinstance(found, bool) or not 0 < found <= number:
        raise DistilledFormatError(
            f"`per_class` of the images must be from 0 to {number}, got {found!r:.40}"
        )
    for name, most in (("upsample_factor", _MOST_FACTOR), ("num_bytes", 1 << 62)):
        found = images.get(name)
        if found is not None and not whole(found, 1, most):
            raise DistilledFormatError(
                f"`{name}` of the images must be a whole number up to {most:,}, got {found!r:.40}"
            )


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, read in pieces."""
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


def _compare(folder: Path, name: str, size: int, digest: str, record: Mapping[str, Any]) -> None:
    """Check a file against the size and checksum that the record has of it."""
    noted = record["files"].get(name)
    if not isinstance(noted, dict):
        raise DistilledFormatError(f"{folder / RECORD} has no checksum of {name}")
    if noted.get("size") != size or noted.get("sha256") != digest:
        raise DistilledFormatError(
            f"{folder / name} is not the file that was written with {RECORD}: "
            + (
                f"it has {size:,} bytes instead of {noted.get('size')!r:.20}"
                if noted.get("size") != size
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


def _named(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _parametrization(recipe: Recipe, name: str, pixels: Tensor, limits: Limits) -> Parametrization:
    """The images, as they are or stored smaller."""
    small = name == SMALL_IMAGES
    factor, fits = 1, False
    if pixels.ndim == 4 and pixels.numel():
        channels, height, width = pixels.shape[1:]
        factor = recipe.shape[1] // height if small else 1
        fits = recipe.shape == (channels, height * factor, width * factor)
    if not fits or factor > _MOST_FACTOR:
        whole = f"(N, {', '.join(map(str, recipe.shape))})"
        parts = f", a whole number of times smaller, up to {_MOST_FACTOR}" if small else ""
        raise DistilledFormatError(f"{name} must be {whole}{parts}, got {tuple(pixels.shape)}")
    if pixels.dtype not in FLOATS or float(pixels.min()) < 0 or float(pixels.max()) > 1:
        raise DistilledFormatError(f"{name} must be floating-point numbers from 0 to 1")
    side = max(recipe.shape[1:])
    limits.check("max_image_size", side, f"{name} would have a side of", " pixels")
    stored = pixels.numel() * pixels.element_size()
    limits.check_expanded(stored, stored * factor * factor, name)
    copies = recipe.augmentations_per_step
    batch = stored * factor * factor * copies
    limits.check_expanded(stored, batch, f"{copies} augmented copies of {name}")
    return Upsampled.of_stored(pixels, factor) if small else Pixels(pixels)


def _assemble(
    recipe: Recipe, record: Mapping[str, Any], tensors: Mapping[str, Tensor], limits: Limits
) -> SyntheticSet:
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
    constants = _named(tensors, "constants.")
    soft = tensors.get("soft_labels")
    for name, tensor in (("step_sizes", step_sizes), ("soft_labels", soft), *constants.items()):
        if tensor is not None and tensor.dtype not in FLOATS:
            raise DistilledFormatError(f"{name!r:.80} must be floating-point, got {tensor.dtype}")
    form = None if soft is None else _label_form(record)
    if soft is not None:
        # Before anything of that size is made.
        fits = soft.shape == (count, recipe.num_classes)
        if fits and form == "probabilities":
            fits = bool((soft >= 0).all()) and bool(((soft.sum(1) - 1).abs() <= 1e-2).all())
        if not fits:
            raise DistilledFormatError(
                f"soft_labels must be {form} ({count}, {recipe.num_classes})"
            )
    transform = transform_from(record["transform"], _named(tensors, "transform."))
    with torch.no_grad():
        first = _parametrization(recipe, name_of_images, pixels[:1], limits)()
        made = transform(first)
    if made.shape != first.shape or not bool(made.isfinite().all()):
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


def _label_form(record: Mapping[str, Any]) -> LabelForm:
    images = record.get("images")
    form = images.get("label_form") if isinstance(images, Mapping) else None
    form = form or "probabilities"
    if form not in get_args(LabelForm):
        raise DistilledFormatError(
            f"'label_form' must be one of {get_args(LabelForm)}, got {form!r:.80}"
        )
    return "weights" if form == "weights" else "probabilities"
