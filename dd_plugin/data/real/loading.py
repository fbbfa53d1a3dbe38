"""Real data by its name: a folder, the id of a data set on the Hub, or the digits.

The front door of `dd_plugin.data`: `load_real` finds the data set and hands it to `RealData`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Final

from dd_plugin.data.real.class_folders import LabeledFiles, find_class_folders, take_split
from dd_plugin.data.real.columns import DataError, MissingSplitError
from dd_plugin.data.real.dataset import RealData
from dd_plugin.data.real.digits import digit_images, load_digits
from dd_plugin.data.real.image_folders import explicit_splits, holds_images
from dd_plugin.text import first_line

DIGITS: Final = "digits"

# Options that only a table has a use for.
_COLUMNS: Final = ("image_column", "label_column")

# What the Hub allows as the id of a data set: NAME or OWNER/NAME.
_HUB_ID: Final = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", re.ASCII)


def load_real(
    source: Any,
    split: str | None = None,
    *,
    config: str | None = None,
    revision: str | None = None,
    streaming: bool = False,
    **options: Any,
) -> RealData:
    """Load real data by its name.

    A folder of images has a folder for each class, as for torchvision's `ImageFolder`. All images
    below it belong to that class. Above the class folders there may be folders for splits, such as
    ``train`` and ``test``.

    Args:
        source: a folder (of images sorted into folders, of Parquet files, or written by
            `save_to_disk`), the id of a data set on the Hugging Face Hub, `"digits"` for the one
            that comes with scikit-learn, or anything `RealData.from_dataset` takes.
        split: which split, e.g. `"train"`; for the Hub and for a folder, but for one written by
            `save_to_disk`, also a slice, `"train[:1000]"`.
        config: which configuration of the data set, if it has several.
        revision: which commit, branch or tag on the Hub.
        streaming: read it as a stream instead of fetching all of it.
        **options: of `RealData.from_dataset`.

    Raises:
        DataError: it cannot be found, reached or used.
        MissingSplitError: it has no such split.
    """
    if not isinstance(source, (str, os.PathLike)):
        return RealData.from_dataset(source, split=split, **options)
    name = os.fspath(source)
    folder = _folder_of(name)
    # Decided here, once: a folder may be gone when the name is wanted.
    public_name = name if folder is None and _HUB_ID.fullmatch(name) else None
    if name == DIGITS and not any(options.get(column) for column in _COLUMNS):
        digits = RealData.from_dataset(digit_images(split), **options)
        digits.public_name = public_name
        return digits
    files = None
    if folder is not None and folder.is_dir() and not _is_saved(folder):
        splits = find_class_folders(folder)
        files = None if splits is None else take_split(splits, split, name)
    loaded: Any
    if files is None:
        loaded, split = _load(
            name, folder, split=split, config=config, revision=revision, streaming=streaming
        )
    else:
        loaded, split = _stream_of(files) if streaming else files, None
        if len(files.classes) < 2 and options.get("class_names") is None:
            raise DataError(
                f"the images of the folder {name!r} are all of one class "
                f"({', '.join(files.classes)}); sort them into at least two folders, one per class"
            )
    data = RealData.from_dataset(loaded, split=split, **options)
    data.public_name = public_name
    return data


def _folder_of(name: str) -> Path | None:
    """Return the folder or file of a name; None for the digits, the Hub, and other addresses."""
    if not name:
        raise DataError(f"the data set needs a name: a folder, an id on the Hub, or {DIGITS!r}")
    if name == DIGITS or "://" in name:
        return None
    folder = Path(name).expanduser()
    if folder.exists():
        return folder
    if not _HUB_ID.fullmatch(name):
        raise DataError(f"there is no folder {name!r}")
    return None


def _is_saved(folder: Path) -> bool:
    """Return whether `save_to_disk` wrote a folder."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def _stream_of(files: LabeledFiles) -> Any:
    try:
        return files.to_stream()
    except UnicodeEncodeError as error:
        raise DataError(
            f"the name of a file is not valid text ({first_line(error)}); rename the file, or load "
            "the folder without streaming"
        ) from error


def _load(
    name: str,
    folder: Path | None,
    *,
    split: str | None,
    config: str | None,
    revision: str | None,
    streaming: bool,
) -> tuple[Any, str | None]:
    """Return the data set, and the split that remains to be taken."""
    try:
        import datasets
        from datasets.exceptions import DatasetsError
    except ImportError as error:
        raise ImportError(
            f"reading the data set {name!r} needs the package `datasets`; run `pip install "
            "datasets`, or pass the images themselves, for example as a torch TensorDataset"
        ) from error

    if name == DIGITS:
        return load_digits(), split
    arguments: dict[str, Any] = {"name": config, "split": split, "streaming": streaming}
    try:
        if folder is None:
            return datasets.load_dataset(name, revision=revision, **arguments), None
        place = str(folder)
        if _is_saved(folder):
            return datasets.load_from_disk(place), split
        splits = explicit_splits(folder) if folder.is_dir() else None
        if splits:
            builder = "imagefolder" if holds_images(folder) else place
            loaded = datasets.load_dataset(builder, data_files=splits, **arguments)
        elif folder.suffix == ".parquet" and folder.is_file():
            loaded = datasets.load_dataset("parquet", data_files=place, **arguments)
        else:
            loaded = datasets.load_dataset(place, revision=revision, **arguments)
    except (OSError, ValueError, RuntimeError, ImportError, DatasetsError) as error:
        missing = isinstance(error, ValueError) and "Unknown split" in str(error)
        kind = MissingSplitError if missing else DataError
        raise kind(_unreachable(name, folder is not None, split, error)) from error
    return loaded, None


def _unreachable(name: str, is_local: bool, split: str | None, error: Exception) -> str:
    reason = first_line(error)
    what = f"data set {name!r}" + (f", split {split!r}," if split else "")
    if is_local:
        return f"the {what} could not be read: {reason}"
    return (
        f"the {what} could not be loaded: there is no such folder here, and the Hub says: "
        f"{reason}; check the name and the connection, give a folder, or use {DIGITS!r}, which "
        "needs neither"
    )
