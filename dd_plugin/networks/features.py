"""Features of real images: computed once per backbone, then drawn from as real images are.

Between `dd_plugin.data` and the heads. The outer loss of a run with a frozen backbone, the probes
and the coresets read features alone. Each real image goes through the backbone once, and once more
for each augmented copy. With a folder the features are kept in a file there
(`feature_store`), memory-mapped, and the next run on the same data and weights reads them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from dd_plugin.data import DataError, RealData
from dd_plugin.data.augmentation import Augmentation
from dd_plugin.data.real.rows import draw, draw_balanced, require_two_classes
from dd_plugin.networks.feature_file import FeatureFile
from dd_plugin.networks.feature_store import FilePlace, MemoryStore
from dd_plugin.networks.feature_work import FeatureWork, FrozenBackbone, Gather
from dd_plugin.seeds import Purpose, mix

# Bytes from which on values are kept in half precision.
_HALF_FROM = 1 << 30


@dataclass(frozen=True, eq=False)
class Features:
    """Features of a data set, in the order of its rows.

    Attributes:
        values: (copies, N, d). Of `features_of` float32, or bfloat16 where float32 would take
            more than 1 GiB; perhaps memory-mapped. Copy 0 is of the plain images, the others are of
            augmented ones.
        labels: int64 (N,).
        num_classes: the number of classes.
    """

    values: Tensor
    labels: Tensor
    num_classes: int
    _of_class: tuple[Tensor, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        copies_and_rows = self.values.shape[:2]
        if self.values.dim() != 3 or not copies_and_rows[0] or self.labels.dim() != 1:
            raise ValueError(
                "`values` must be (copies, N, d) and `labels` (N,), got shapes "
                f"{tuple(self.values.shape)} and {tuple(self.labels.shape)}"
            )
        if len(self.labels) != copies_and_rows[1]:
            raise ValueError(
                f"`labels` must be one for each of {copies_and_rows[1]} rows, got "
                f"{len(self.labels)}"
            )
        counts = torch.bincount(self.labels.cpu(), minlength=self.num_classes)
        of_class = self.labels.cpu().argsort(stable=True).split(counts.tolist())
        # The one way to set a field of a frozen dataclass.
        object.__setattr__(self, "_of_class", of_class)

    @property
    def copies(self) -> int:
        """The number of copies: 1 without augmentation."""
        return self.values.shape[0]

    @property
    def num_features(self) -> int:
        """The number of features of an image."""
        return self.values.shape[2]

    def plain(self) -> Tensor:
        """Return the features of the plain images, float32 (N, d)."""
        return self.values[0].float()

    def to(self, device: torch.device | str) -> Features:
        """Return the same features on a device; memory-mapped values are read there."""
        return Features(self.values.to(device), self.labels.to(device), self.num_classes)

    def batch(self, size: int, seed: int, balanced: bool = True) -> tuple[Tensor, Tensor]:
        """Return a random batch: the rows that `RealData.batch` draws with the same seed.

        Each row is taken from a copy of its own, drawn by the seed as well.

        Args:
            size: number of rows.
            seed: of the draw.
            balanced: draw equally many rows of each class, give or take one.

        Returns:
            Features (size, d), float32 (float64 where the values are), and labels (size,), on the
            device of `values`.

        Raises:
            ValueError: `size` is below 1, or a class has no rows in a balanced batch.
        """
        if size < 1:
            raise ValueError(f"`size` must be at least 1, got {size}")
        generator = torch.Generator().manual_seed(seed)
        if balanced:
            for index, rows_of_class in enumerate(self._of_class):
                if not len(rows_of_class):
                    raise ValueError(
                        f"a balanced batch must have rows of each class, but class {index} has "
                        "none; leave it out of the classes, or pass `balanced=False`"
                    )
            rows = draw_balanced(self._of_class, size, generator)
        else:
            rows = draw(len(self.labels), size, generator)
        copies = torch.zeros_like(rows)
        if self.copies > 1:
            copy_generator = torch.Generator().manual_seed(mix(seed, Purpose.FEATURE_COPIES))
            copies = torch.randint(self.copies, (size,), generator=copy_generator)
        device = self.values.device
        flat = self.values.flatten(0, 1)
        picked = flat[(copies * len(self.labels) + rows).to(device)]
        picked = picked if picked.dtype == torch.float64 else picked.float()
        return picked, self.labels[rows.to(self.labels.device)].to(device)


def features_of(
    backbone: FrozenBackbone,
    data: RealData,
    *,
    copies: int = 1,
    augmentation: str | Augmentation = "",
    seed: int = 0,
    batch_size: int = 64,
    folder: Path | str | None = None,
    precision: str = "auto",
    on_progress: Callable[[int, int], None] | None = None,
    share: tuple[int, int] = (0, 1),
    gather: Gather | None = None,
) -> Features:
    """Return the features of all images of a data set.

    Batches of images go through the backbone without gradients. The augmentation of an image
    follows from the seed, the copy and its row; the batch size and the number of processes do not
    change it. Gray images are given to the backbone as three equal channels.

    Args:
        backbone: a `Backbone`.
        data: the images. A stream is read once for its labels and once for each copy.
        copies: number of copies. The first is of the plain images.
        augmentation: how the other copies are augmented. Of a name such as ``"flip_crop"`` each
            image gets all transformations.
        seed: of the augmentation.
        batch_size: images that go through the backbone at a time, in each process.
        folder: keep the features in ``folder/features/KEY.safetensors`` and memory-map them. A
            file that an earlier call left there for the same pixels, labels, weights and settings
            is used. Without a folder the features are kept in memory, and so are copies by an
            augmentation of your own class, whose settings nobody knows. Files are never deleted.
        precision: of the backbone's arithmetic: ``"float32"`` (that of its weights),
            ``"bfloat16"`` (autocast), or ``"auto"``, which is bfloat16 on a GPU and float32
            elsewhere.
        on_progress: called after each batch with the number of images done, by all processes
            together, and the number of all, both counted once per copy.
        share: (process, processes). Each process computes its part of the rows.
        gather: needed for several processes, such as ``accelerator.gather``: from a tensor of each
            process, of equal shapes, to all of them, joined along the first dimension in the order
            of the processes.

    Returns:
        The same features in every process, on the CPU. Of several processes that compute them, the
        first one has them memory-mapped and the others in memory.

    Raises:
        DataError: the images are all of one class, or there are none.
        ValueError: an argument is not as described, or the backbone's output is not finite
            features of shape (N, `num_features`).
    """
    if isinstance(augmentation, str):
        augmentation = Augmentation(augmentation, compose=True)
    _check_numbers(copies=copies, batch_size=batch_size)
    _check_copies(copies, augmentation)
    _check_share(share, gather)
    device = _device_of(backbone, data)
    work = FeatureWork(
        backbone=backbone,
        data=data,
        augmentation=augmentation,
        seed=seed,
        device=device,
        precision=_resolved(precision, device),
        batch_size=batch_size,
    )
    labels = data.labels().cpu()
    _check_labels(data, labels)
    shape = (copies, len(labels), backbone.num_features)
    dtype = torch.bfloat16 if 4 * shape[0] * shape[1] * shape[2] > _HALF_FROM else torch.float32

    place: FilePlace | None = None
    store: MemoryStore | FeatureFile | None = None
    can_be_named = copies == 1 or type(augmentation) is Augmentation
    if folder is not None and can_be_named:
        place = FilePlace.of_work(work, Path(folder) / "features", shape, dtype)
        if (stored := place.read(device, gather)) is not None:
            return Features(stored, labels, data.num_classes)
        if share[0] == 0:
            store = place.open(labels)
    store = store or MemoryStore(shape, dtype)
    try:
        done = 0
        for copy in range(copies):
            for first, values in work.rows_of(copy, len(labels), share, gather):
                store.write(copy, first, values)
                done += len(values)
                if on_progress is not None:
                    on_progress(done, copies * len(labels))
        store.finish()
    finally:
        store.discard()
    if gather is not None:
        gather(torch.zeros(1, device=device))  # the file is finished now, if there is one
    if isinstance(store, MemoryStore):
        return Features(store.values, labels, data.num_classes)
    assert place is not None
    return Features(place.written(), labels, data.num_classes)


def _check_numbers(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}")


def _check_copies(copies: int, augmentation: Augmentation) -> None:
    if copies > 1 and not augmentation.names:
        raise ValueError(
            f"`copies` must be 1 without augmentation, got {copies}; give `augmentation`"
        )


def _check_share(share: tuple[int, int], gather: Gather | None) -> None:
    process, processes = share
    if not 0 <= process < processes:
        raise ValueError(f"`share` must be (process, processes), counted from 0, got {share}")
    if processes > 1 and gather is None:
        raise ValueError(
            f"`gather` must be given for {processes} processes; pass `accelerator.gather`"
        )


def _check_labels(data: RealData, labels: Tensor) -> None:
    if not len(labels):
        raise DataError("the data set has no rows; give another split or data set")
    require_two_classes(torch.bincount(labels, minlength=data.num_classes), data.class_names)


def _device_of(backbone: FrozenBackbone, data: RealData) -> torch.device:
    if isinstance(backbone, nn.Module):
        for parameter in backbone.parameters():
            return parameter.device
    return data.device


def _resolved(precision: str, device: torch.device) -> str:
    if precision not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"`precision` must be 'auto', 'float32' or 'bfloat16', got {precision!r}")
    if precision == "auto":
        return "bfloat16" if device.type == "cuda" else "float32"
    return precision
