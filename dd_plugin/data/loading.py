"""Real data by its name: a folder, the id of a data set on the Hub, or the digits.

The front door of `dd_plugin.data`: `load_real` finds the data set and hands it to `real`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from dd_plugin.data.columns import DataError, MissingSplitError
from dd_plugin.data.image_folders import explicit_splits, holds_images
from dd_plugin.data.real import RealData
from dd_plugin.messages import first_line

DIGITS: Final = "digits"


def load_real(
    source: Any,
    split: str | None = None,
    *,
    config: str | None = None,
    revision: str | None = None,
    streaming: bool = False,
    **options: Any,
) -> RealData:
    """Real data by name.

    Args:
        source: a folder (of images sorted into folders, of Parquet files, or written by
            `save_to_disk`), the id of a data set on the Hugging Face Hub, `"digits"` for the one
            that scikit-learn brings along, or anything `RealData.from_dataset` takes.
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
    if isinstance(source, (str, os.PathLike)):
        source, split = _load(os.fspath(source), split, config, revision, streaming)
    return RealData.from_dataset(source, split=split, **options)


def _load(
    name: str, split: str | None, config: str | None, revision: str | None, streaming: bool
) -> tuple[Any, str | None]:
    """The data set, and the split that remains to be taken."""
    try:
        import datasets
        from datasets.exceptions import DatasetsError
    except ImportError as error:
        raise ImportError(
            f"reading the data set {name!r} needs the package `datasets`; run `pip install "
            "datasets`, or pass the images themselves, for example as a torch TensorDataset"
        ) from error

    if name == DIGITS:
        from dd_plugin.data.digits import load_digits

        return load_digits(), split
    if not name:
        raise DataError(f"the data set needs a name: a folder, an id on the Hub, or {DIGITS!r}")
    folder = Path(name).expanduser()
    if not folder.exists() and (name.startswith((".", "~")) or folder.is_absolute()):
        raise DataError(f"there is no folder {name!r}")
    place = str(folder) if folder.exists() else name
    arguments: dict[str, Any] = {"name": config, "split": split, "streaming": streaming}
    try:
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
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
        raise kind(_unreachable(name, folder.exists(), split, error)) from error
    return loaded, None


def _unreachable(name: str, is_local: bool, split: str | None, error: Exception) -> str:
    reason = first_line(error)
    what = f"data set {name!r}" + (f", split {split!r}," if split else "")
    if is_local:
        return f"the {what} could not be read: {reason}"
    return (
        f"the {what} could not be had: there is no such folder here, and from the Hub: {reason}; "
        f"check the name and the connection, give a folder, or use {DIGITS!r}, which needs neither"
    )
