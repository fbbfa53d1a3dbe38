"""The images as one file: the encoded bytes of each, its label and its split, as Parquet.

    python -m tests.gpu.pack FOLDER FILE

FOLDER has Parquet files ``train*.parquet`` and ``validation*.parquet`` with the columns ``image``
(of `datasets`) and ``label``. What the file is read with, `read_pack`, needs no `datasets`.
"""

from __future__ import annotations

import io
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

SPLITS = ("train", "validation")
_NAMES = b"class_names"


def pack(folder: Path, file: Path) -> dict[str, int]:
    """Write the file; returns the images of each split.

    Raises:
        FileNotFoundError: the folder has no such Parquet file.
    """
    import pyarrow
    from pyarrow import compute, parquet

    parts, counts, about = [], {}, {}
    for split in SPLITS:
        paths = sorted(folder.rglob(f"{split}*.parquet"))
        if not paths:
            raise FileNotFoundError(f"{folder} has no {split}*.parquet")
        rows = pyarrow.concat_tables(
            parquet.read_table(p, columns=["image", "label"]) for p in paths
        )
        # What `datasets` writes there, the names of classes among it.
        about = dict(parquet.read_schema(paths[0]).metadata or {})
        encoded = compute.struct_field(rows["image"], "bytes")
        counts[split] = len(rows)
        parts.append(
            pyarrow.table(
                {
                    "split": pyarrow.repeat(split, len(rows)),
                    "bytes": encoded,
                    "label": rows["label"].cast(pyarrow.int64()),
                }
            )
        )
    names = json.dumps(_names(about))
    table = pyarrow.concat_tables(parts).replace_schema_metadata({_NAMES: names})
    parquet.write_table(table, file, compression="zstd")
    return counts


def _names(about: dict[bytes, bytes]) -> list[str] | None:
    """The names of the classes in the metadata of a file that `datasets` has written."""
    features = json.loads(about.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    names: list[str] | None = features.get("label", {}).get("names")
    return names


def class_names(file: Path) -> list[str] | None:
    """The names of the classes of a packed file; None if the data set had none."""
    from pyarrow import parquet

    found: list[str] | None = json.loads((parquet.read_schema(file).metadata or {})[_NAMES])
    return found


def read_pack(file: Path, limit: int | None = None) -> dict[str, tuple[Any, Any]]:
    """Images ``(N, C, H, W)``, uint8, and labels ``(N,)``, int64, by split.

    Args:
        file: written by `pack`.
        limit: the most images of a split, the first ones; all by default.

    Raises:
        ValueError: the images differ in shape.
    """
    from PIL import Image
    from pyarrow import compute, parquet

    def decoded(encoded: bytes) -> Any:
        pixels = np.asarray(Image.open(io.BytesIO(encoded)))
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)

    rows = parquet.read_table(file)
    found = {}
    for split in SPLITS:
        part = rows.filter(compute.field("split") == split).slice(0, limit).to_pydict()
        with ThreadPoolExecutor() as pool:
            pixels = np.stack(list(pool.map(decoded, part["bytes"], chunksize=500)))
        found[split] = pixels, np.array(part["label"], np.int64)
    return found


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    print(pack(source, target), f"{target.stat().st_size / 2**20:.1f} MiB")
