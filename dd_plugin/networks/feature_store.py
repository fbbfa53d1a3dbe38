"""Where features are kept: in a file that the next run finds by its key, or in memory.

Used by `features`, which computes them; `feature_file` reads and writes the files.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dd_plugin.networks.feature_file import FeatureFile, UnusableFileWarning, read_features
from dd_plugin.networks.feature_work import FeatureWork, Gather

# Raised when features are computed in another way, so that older files are not used.
_VERSION = 1


class MemoryStore:
    """Features that are kept in memory.

    Args:
        shape: (copies, N, d).
        dtype: Of the values.
    """

    def __init__(self, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
        self.values = torch.empty(shape, dtype=dtype)

    def write(self, copy: int, first: int, values: Tensor) -> None:
        """Write the features of consecutive rows of a copy."""
        self.values[copy, first : first + len(values)] = values

    def finish(self) -> None:
        """Do nothing: what is written is there."""

    def discard(self) -> None:
        """Do nothing: memory is freed with its last user."""


@dataclass(frozen=True)
class FilePlace:
    """A file for the features of some work.

    Attributes:
        path: The file, named by its key.
        key: A checksum of all that the features depend on.
        shape: (copies, N, d).
        dtype: Of the values.
    """

    path: Path
    key: str
    shape: tuple[int, int, int]
    dtype: torch.dtype

    @classmethod
    def of_work(
        cls, work: FeatureWork, folder: Path, shape: tuple[int, int, int], dtype: torch.dtype
    ) -> FilePlace:
        """Return the place in a folder for the features that some work computes."""
        key = _key_of(work, shape[0], dtype)
        return cls(folder / f"{key}.safetensors", key, shape, dtype)

    def read(self, device: torch.device, gather: Gather | None) -> Tensor | None:
        """Return the values, memory-mapped, if every process can read the file."""
        stored = read_features(self.path, self.key)
        usable = stored is not None and stored[0].shape == self.shape
        if gather is not None:
            usable = bool(gather(torch.tensor([float(usable)], device=device)).min() > 0)
        return stored[0] if usable and stored is not None else None

    def written(self) -> Tensor:
        """Return the values, memory-mapped, of the file that was just written.

        Raises:
            OSError: The file is not readable.
        """
        stored = read_features(self.path, self.key)
        if stored is None:
            raise OSError(f"{self.path} cannot be read after it was written; check the disk")
        return stored[0]

    def open(self, labels: Tensor) -> FeatureFile | None:
        """Return the file to write to; None, with a warning, if it cannot be written."""
        try:
            return FeatureFile(
                self.path, self.key, shape=self.shape, dtype=self.dtype, labels=labels
            )
        except OSError as error:
            warnings.warn(
                f"the features cannot be kept in {self.path.parent} ({error}); they are kept in "
                "memory, and the next run computes them again",
                UnusableFileWarning,
                stacklevel=3,
            )
            return None


def _key_of(work: FeatureWork, copies: int, dtype: torch.dtype) -> str:
    """Return the checksum of all that features depend on."""
    augmentation = work.augmentation
    facts = {
        "version": _VERSION,
        "backbone": work.backbone.fingerprint,
        "size": list(work.backbone.size),
        "data": work.data.fingerprint(),
        "copies": copies,
        # Plain images have no augmentation, whatever it is called.
        "augmentation": [repr(augmentation), str(augmentation.fill)] if copies > 1 else None,
        "seed": work.seed if copies > 1 else None,
        "precision": work.precision,
        "dtype": str(dtype),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
