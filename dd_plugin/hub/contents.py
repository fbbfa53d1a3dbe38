"""The contents of a distilled set: `SetContents`, what one can look at.

After `reading`; `dataset` adds what one can do with a set.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from dd_plugin.data.recipe import Recipe
from dd_plugin.hub.reading import IMAGES, StoredSet


class SetContents:
    """A distilled set as it was read from a folder."""

    folder: Path
    _stored: StoredSet

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
