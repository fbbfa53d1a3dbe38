"""The recipe of a distilled set: everything about training on it that is not a tensor.

A plain value at the bottom of `data`: the trainer makes it from its configuration, the synthetic
set takes its batches by it, the evaluation trains by it, and it travels with the images as
``recipe.json``. A distilled set without its recipe does not reproduce its accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

Batching = Literal["all", "groups", "minibatches"]
Init = Literal["fixed", "random", "pool"]


@dataclass(frozen=True)
class Recipe:
    """How a network is trained on the synthetic images.

    Attributes:
        shape: (channels, height, width) of the images.
        class_names: in the order of the labels.
        steps: inner training steps.
        batching: what a step trains on: ``"all"`` images; its own group of them, step after step
            and around again (``"groups"``: Wang et al.'s sequence); or ``"minibatches"``, a fresh
            permutation of the images in each pass.
        groups: how many groups.
        batch_size: of a minibatch.
        optimizer: inner optimizer, one of `dd_plugin.bilevel.optimizers.OPTIMIZERS`.
        optimizer_args: its hyperparameters.
        augmentation: of the synthetic images, as `dd_plugin.data.augmentation.Augmentation` takes.
        init: where networks start: one ``"fixed"`` initialisation, a fresh ``"random"`` one each
            time, or a ``"pool"`` of partly trained ones.
        statistics: the BatchNorm policy (`dd_plugin.convert_bn`), or None for a network without.
        train_with: see ``statistics``.
        model: the network's name, or None for one that has none.
        model_args: its arguments.
    """

    shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    steps: int
    batching: Batching = "all"
    groups: int = 1
    batch_size: int | None = None
    optimizer: str = "sgd"
    optimizer_args: Mapping[str, Any] = field(default_factory=dict)
    augmentation: str = ""
    init: Init = "random"
    statistics: str | None = None
    train_with: str = "batch"
    model: str | None = None
    model_args: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"`steps` must be at least 1, got {self.steps}")
        if self.batching not in get_args(Batching):
            raise ValueError(
                f"`batching` must be one of {', '.join(get_args(Batching))}, got {self.batching!r}"
            )
        if self.groups < 1:
            raise ValueError(f"`groups` must be at least 1, got {self.groups}")
        if (self.batch_size is not None) != (self.batching == "minibatches"):
            raise ValueError(
                '`batch_size` must be given with batching="minibatches" and only then, got '
                f"batching={self.batching!r} and batch_size={self.batch_size}"
            )
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {self.batch_size}")

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "shape": list(self.shape), "class_names": list(self.class_names)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """From what `to_dict` gave.

        Raises:
            ValueError: a key is unknown or missing, or a value is not possible.
        """
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"the recipe has {unknown}, which this version does not know")
        if missing := sorted({"shape", "class_names", "steps"} - set(values)):
            raise ValueError(f"the recipe must have {missing}")
        channels, height, width = values["shape"]
        given = {**values, "class_names": tuple(values["class_names"])}
        return cls(**{**given, "shape": (int(channels), int(height), int(width))})
