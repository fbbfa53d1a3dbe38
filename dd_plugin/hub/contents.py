"""The contents of a distilled set: `SetContents`, what one can look at.

After `reading`; `dataset` adds what one can do with a set.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dd_plugin.data.recipe import Recipe
from dd_plugin.data.synthetic import SyntheticSet
from dd_plugin.hub.reading import IMAGES, StoredSet
from dd_plugin.hub.using.predicting import pixels_of


class SetContents(Dataset[tuple[Tensor, Tensor]]):
    """A distilled set as it was read from a folder: also a data set of images and labels.

    ``distilled[i]`` is an image as `images` has it and its label: a class index, or what
    `soft_labels` has where labels were learned. ``DataLoader(distilled)`` makes batches of them.
    """

    folder: Path
    _stored: StoredSet

    def stored_with(self, synthetic: SyntheticSet) -> StoredSet:
        """Return the contents with other images or labels, to train on as on these."""
        return replace(self._stored, synthetic=synthetic)

    @property
    def recipe(self) -> Recipe:
        """The recipe by which a network is trained on it."""
        return self._stored.synthetic.recipe

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the labels."""
        return self.recipe.class_names

    @property
    def images(self) -> Tensor:
        """The exact images ``(N, C, H, W)``, numbers from 0 to 1."""
        return self._stored.synthetic.images().detach()

    @property
    def images_per_class(self) -> float:
        """Real images per class that take as much storage; upsampled ones are stored smaller."""
        return self._stored.synthetic.images_per_class

    @property
    def labels(self) -> Tensor:
        """Class indices ``(N,)``."""
        return self._stored.synthetic.labels

    @property
    def soft_labels(self) -> Tensor | None:
        """Probabilities, or weights in the loss, ``(N, classes)`` where labels were learned."""
        soft = self._stored.synthetic.learned_labels is not None
        return self._stored.synthetic.targets().detach() if soft else None

    @property
    def step_sizes(self) -> Tensor:
        """``(steps,)``, 0-d for all steps alike, or ``(steps, parameters)``.

        The last where ``recipe.step_size_parameters`` names the parameters.
        """
        return self._stored.synthetic.step_sizes().detach()

    @property
    def results(self) -> dict[str, Any]:
        """The accuracies that its author measured, in [0, 1], by what networks were trained on."""
        return {name: result.to_json() for name, result in self._stored.record.results.items()}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> tuple[Tensor, Tensor]:
        """Return the image and label of a place, or of several places at once.

        Args:
            index: a number, negative from the end; or a slice, a list or a tensor of numbers.

        Raises:
            IndexError: there is no such place.
        """
        if isinstance(index, list):
            index = torch.as_tensor(index, dtype=torch.long)
        labels = self.labels if self.soft_labels is None else self.soft_labels
        return self.images[index], labels[index]

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, Tensor]]:
        """Return what several places hold, as a `DataLoader` asks for a batch."""
        return list(zip(*self[indices], strict=True))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        labels = self.labels if self.soft_labels is None else self.soft_labels
        return iter(zip(self.images, labels, strict=True))

    def preprocess(self, images: Any) -> Tensor:
        """Return images as networks of this set take them: ``(N, C, H, W)``, resized, normalized.

        With a backbone its own preparation comes after that; `DistilledDataset.predict` does both.

        Args:
            images: a Pillow image, a path, an array or a tensor, or a list of these.

        Raises:
            DataError: something is no image.
            ValueError: an empty list.
        """
        listed = images if isinstance(images, (list, tuple)) else [images]
        pixels = pixels_of(listed, self.recipe).to(self.step_sizes.dtype)
        prepared: Tensor = self._stored.synthetic.transform(pixels)
        return prepared.detach()

    def __repr__(self) -> str:
        size = "x".join(map(str, self.recipe.shape))
        names = [one.model for one in self.recipe.architectures]
        return (
            f"DistilledDataset({len(self)} images of {size}, {self.recipe.num_classes} classes, "
            f"{self.recipe.steps} steps, model={(names[0] if len(names) == 1 else names)!r})"
        )

    def to_dataset(self) -> Any:
        """Return the PNG images with their labels, the `Dataset` that `load_dataset` gives."""
        from datasets import Dataset

        return Dataset.from_parquet(str(self.folder / IMAGES))
