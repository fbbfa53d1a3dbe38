"""Files of features: written whole or not at all, checked when read, and memory-mapped.

Used by `feature_store`. A file is an ordinary safetensors file with the tensors `values` and
`labels`; any safetensors reader opens it. Its metadata has the key that it was computed for and a
checksum of its tensors. Values are written as they are computed, so a file may be larger than the
memory.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import time
import warnings
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

_FORMAT = "dd_plugin.features.1"
_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.int64: "I64"}
_CHECKSUM_LENGTH = 8
_CHUNK = 64 << 20
# Seconds after which a half-written file has no writer any more, where files cannot be locked.
_ABANDONED = 86_400.0


class UnusableFileWarning(UserWarning):
    """A file of features cannot be read or written; the features are computed in memory."""


def read_features(path: Path, key: str) -> tuple[Tensor, Tensor] | None:
    """Return the values, memory-mapped, and labels of a file; None if there is no usable one.

    Args:
        path: the file.
        key: the key that the file must have been computed for.

    Returns:
        Values (copies, N, d) and labels (N,). A damaged file and one with another key give None,
        with an `UnusableFileWarning`.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = set(file.keys())
            if metadata.get("format") != _FORMAT or names != {"values", "labels"}:
                reason = "it is not a file of features"
            elif metadata.get("key") != key:
                reason = "it was computed for other data, other weights or other settings"
            else:
                values, labels = file.get_tensor("values"), file.get_tensor("labels")
                if metadata.get("checksum") == _checksum(values, labels):
                    return values, labels
                reason = "it is damaged"
    except (SafetensorError, OSError) as error:
        reason = str(error)
    warnings.warn(
        f"the features in {path} cannot be used: {reason}; they are computed again",
        UnusableFileWarning,
        stacklevel=2,
    )
    return None


class FeatureFile:
    """A file of features that is being written.

    Args:
        path: the file. Until `finish` it has another name.
        key: what the features are computed for.
        shape: (copies, N, d) of the values.
        dtype: of the values, float32 or bfloat16.
        labels: int64 (N,).

    Raises:
        OSError: the folder cannot be written to, or its disk has no room for the file.
    """

    def __init__(
        self,
        path: Path,
        key: str,
        shape: tuple[int, int, int],
        dtype: torch.dtype,
        labels: Tensor,
    ) -> None:
        self._path = path
        self._shape = shape
        self._dtype = dtype
        self._labels = labels
        self._key = key
        self._row_bytes = shape[2] * dtype.itemsize
        head = self._header("0" * _CHECKSUM_LENGTH) + bytes(_bytes(labels))
        self._start = len(head)  # of the values, at a multiple of 8 as the labels are
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path.parent)
        self._partial, self._file = _locked_file(path)
        try:
            size = self._start + shape[0] * shape[1] * self._row_bytes
            # The room is taken now, so that a full disk is noticed before hours of work.
            os.posix_fallocate(self._file.fileno(), 0, size)
            self._file.write(head)
        except BaseException:
            self.discard()
            raise

    def write(self, copy: int, first: int, values: Tensor) -> None:
        """Write the features of consecutive rows of a copy."""
        self._file.seek(self._start + (copy * self._shape[1] + first) * self._row_bytes)
        self._file.write(_bytes(values.to(self._dtype)))

    def finish(self) -> None:
        """Give the file its name, with everything on the disk."""
        checksum = 0
        self._file.seek(self._start - _bytes(self._labels).nbytes)
        while part := self._file.read(_CHUNK):
            checksum = zlib.crc32(part, checksum)
        self._file.seek(0)
        self._file.write(self._header(f"{checksum:0{_CHECKSUM_LENGTH}x}"))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._partial.replace(self._path)

    def discard(self) -> None:
        """Delete what is written, unless it is finished."""
        self._file.close()
        self._partial.unlink(missing_ok=True)

    def _header(self, checksum: str) -> bytes:
        """Return the head of a safetensors file: its length, then JSON, filled up with spaces."""
        copies, rows, _ = self._shape
        start = 8 * rows
        entries: dict[str, Any] = {
            "__metadata__": {"format": _FORMAT, "key": self._key, "checksum": checksum},
            "labels": {
                "dtype": _DTYPES[torch.int64],
                "shape": [rows],
                "data_offsets": [0, start],
            },
            "values": {
                "dtype": _DTYPES[self._dtype],
                "shape": list(self._shape),
                "data_offsets": [start, start + copies * rows * self._row_bytes],
            },
        }
        text = json.dumps(entries).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text


def _checksum(values: Tensor, labels: Tensor) -> str:
    checksum = 0
    for tensor in (labels, values):
        for part in _parts(_bytes(tensor)):
            checksum = zlib.crc32(part, checksum)
    return f"{checksum:0{_CHECKSUM_LENGTH}x}"


def _parts(content: memoryview) -> Iterator[memoryview]:
    for start in range(0, len(content), _CHUNK):
        yield content[start : start + _CHUNK]


def _bytes(tensor: Tensor) -> memoryview:
    plain = tensor.detach().cpu().contiguous().reshape(-1)
    return plain.view(torch.uint8).numpy().data


def _locked_file(path: Path) -> tuple[Path, BinaryIO]:
    """Open a new file beside a path, locked for as long as this process has it open.

    The operating system lets go of the lock however the process ends.
    """
    while True:
        partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
        file = partial.open("xb+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # it is being looked at before it was locked, and deleted
            file.close()
            continue
        except OSError:
            return partial, file  # no locks here: only its age tells
        if os.fstat(file.fileno()).st_nlink:
            return partial, file
        file.close()


def _remove_abandoned(folder: Path) -> None:
    """Delete the half-written files of processes that are gone."""
    for path in folder.glob(".*.safetensors.*.partial"):
        with suppress(OSError), path.open("rb+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # it is being written
            except OSError:  # the file system has no locks
                if time.time() - path.stat().st_mtime <= _ABANDONED:
                    continue
            path.unlink()
