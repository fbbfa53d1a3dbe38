"""The recipe of a distilled set: everything about training on it that is not a tensor.

A plain value at the bottom of `data`. The trainer makes it from its configuration, the synthetic
set takes its batches by it, and the evaluation trains by it. It travels with the images as
``recipe.json``. A distilled set without its recipe does not reproduce its accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeVar, get_args

import torch

from dd_plugin.bilevel.optimizers import OPTIMIZERS, Optimizer
from dd_plugin.choices import Batching, HeadKind, Init, Precision, Trainable
from dd_plugin.data.network_records import (
    BackboneRecord,
    NetworkRecord,
    backbone_from,
    label_of,
    network_from,
)
from dd_plugin.data.recipe_values import check_types
from dd_plugin.files import under
from dd_plugin.text import described

Loss = Literal["cross_entropy", "custom"]
_T = TypeVar("_T")


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
        step_size_parameters: names of the network's parameters where each has step sizes of its
            own, in the order of the columns of the set's step sizes; None where all are alike.
        augmentation: of the synthetic images, as `dd_plugin.data.augmentation.Augmentation` takes.
        init: where networks start: one ``"fixed"`` initialization, a fresh ``"random"`` one each
            time, or a ``"pool"`` of partly trained ones.
        statistics: the BatchNorm policy (`dd_plugin.convert_bn`), or None for a network without.
        train_with: see ``statistics``.
        model: the network's name, or None for one that has none.
        model_args: its arguments.
        loss: ``"cross_entropy"``, or ``"custom"`` for one that is not part of the recipe.
        mixed_precision: ``"bf16"``: training runs in bfloat16 where `torch.autocast` allows it;
            networks are tested in the precision of the images all the same.
        augmentations_per_step: copies of its images that a step trains on, each augmented by
            itself. Without augmentation there is one copy.
        trainable: what is trained on the images: ``"all"`` of a network, or the ``"head"`` of
            frozen ones.
        head: how a head is trained: ``"ridge"`` regression or ``"unroll"``, step by step.
        head_copies: augmented copies of each image that a head is trained on, beside the image
            itself, when it is used or tested. Without augmentation there are none.
        backbones: the frozen networks.
        networks: all networks that are trained from scratch, where there are several; ``model`` is
            the first of them. Empty where there is one; `architectures` has it then, too.
    """

    shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    steps: int
    batching: Batching = "all"
    groups: int = 1
    batch_size: int | None = None
    optimizer: str = "sgd"
    optimizer_args: Mapping[str, Any] = field(default_factory=dict)
    step_size_parameters: tuple[str, ...] | None = None
    augmentation: str = ""
    init: Init = "random"
    statistics: str | None = None
    train_with: str = "batch"
    model: str | None = None
    model_args: Mapping[str, Any] = field(default_factory=dict)
    loss: Loss = "cross_entropy"
    mixed_precision: Precision = "no"
    augmentations_per_step: int = 1
    trainable: Trainable = "all"
    head: HeadKind | None = None
    head_copies: int = 0
    backbones: tuple[BackboneRecord, ...] = ()
    networks: tuple[NetworkRecord, ...] = ()

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"`steps` must be at least 1, got {self.steps}")
        for name, choices in (
            ("batching", get_args(Batching)),
            ("init", get_args(Init)),
            ("loss", get_args(Loss)),
            ("mixed_precision", get_args(Precision)),
            ("optimizer", tuple(OPTIMIZERS)),
            ("statistics", (None, "learned", "tracked", "frozen")),
            ("train_with", ("batch", "running")),
            ("trainable", get_args(Trainable)),
            ("head", (None, *get_args(HeadKind))),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"`{name}` must be one of {', '.join(map(str, choices))}, got "
                    f"{getattr(self, name)!r}"
                )
        for_head = self.trainable == "head"
        if for_head != (self.head is not None) or for_head != bool(self.backbones):
            raise ValueError(
                '`head` and `backbones` must be given with trainable="head" and only then, got '
                f"trainable={self.trainable!r}, head={self.head!r} and {len(self.backbones)} "
                "backbones"
            )
        if self.head_copies < 0 or (self.head_copies and not for_head):
            raise ValueError(
                '`head_copies` must be a whole number from 0, and 0 without trainable="head", got '
                f"{self.head_copies} with trainable={self.trainable!r}"
            )
        self._check_networks()
        for name in ("groups", "augmentations_per_step"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}")
        if (self.batch_size is not None) != (self.batching == "minibatches"):
            raise ValueError(
                '`batch_size` must be given with batching="minibatches" and only then, got '
                f"batching={self.batching!r} and batch_size={self.batch_size}"
            )
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {self.batch_size}")

    def _check_networks(self) -> None:
        if not self.networks:
            return
        first = NetworkRecord(self.model, dict(self.model_args))
        if self.networks[0] != first or len(self.networks) < 2 or self.trainable != "all":
            raise ValueError(
                '`networks` must be two or more with trainable="all", the first of them `model` '
                f"with `model_args`, got {len(self.networks)} for `model` = {self.model!r:.80} and "
                f"trainable={self.trainable!r}"
            )
        if self.step_size_parameters is not None:
            raise ValueError(
                "`step_size_parameters` must be null with several `networks`, whose parameters "
                "have different names"
            )

    @property
    def architectures(self) -> tuple[NetworkRecord, ...]:
        """The networks that are trained from scratch: the one, or all of several."""
        return self.networks or (NetworkRecord(self.model, self.model_args),)

    @property
    def network_labels(self) -> tuple[str, ...]:
        """The names of `architectures` in tables, with a number where two are the same."""
        names = [one.model or "" for one in self.architectures]
        return tuple(label_of(names, place) for place in range(len(names)))

    def of_network(self, which: int, tensors: Mapping[str, _T]) -> dict[str, _T]:
        """Return the tensors of one of the networks, of those of all.

        Args:
            which: place in `architectures`.
            tensors: by the name in the network, after ``"0."``, ``"1."``, ... where there are
                several.

        Returns:
            By the name in the network.
        """
        prefix = f"{which}." if self.networks else ""
        return under(tensors, prefix)

    def for_network(self, which: int, tensors: Mapping[str, _T]) -> dict[str, _T]:
        """Return tensors by names that tell networks apart, the opposite of `of_network`."""
        prefix = f"{which}." if self.networks else ""
        return {f"{prefix}{name}": t for name, t in tensors.items()}

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    def make_optimizer(self) -> Optimizer:
        """Return the inner optimizer. Every parameter is a group, as own step sizes need it."""
        return OPTIMIZERS[self.optimizer](**self.optimizer_args, groups=str)

    @property
    def autocast(self) -> torch.dtype | None:
        """The dtype of `torch.autocast` in training, as `dd_plugin.bilevel` takes it."""
        return torch.bfloat16 if self.mixed_precision == "bf16" else None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it, without unused fields that version 0.1.0 does not know."""
        values = asdict(self)
        unused = [name for name, default in _LATER.items() if values[name] == default]
        return {k: _listed(v) for k, v in values.items() if k not in unused}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Make a recipe from what `to_dict` returned.

        Raises:
            ValueError: a key is unknown or missing, or a value is not possible.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"the recipe must be an object, got {type(values).__name__}")
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"the recipe has {unknown}, which this version does not know")
        if missing := sorted({"shape", "class_names", "steps"} - set(values)):
            raise ValueError(f"the recipe must have {missing}")
        check_types(values)
        channels, height, width = values["shape"]
        arguments = {**values, "class_names": tuple(values["class_names"])}
        if arguments.get("step_size_parameters") is not None:
            arguments["step_size_parameters"] = tuple(arguments["step_size_parameters"])
        if "backbones" in arguments:
            arguments["backbones"] = tuple(map(backbone_from, arguments["backbones"]))
        if "networks" in arguments:
            arguments["networks"] = tuple(map(network_from, arguments["networks"]))
        recipe = cls(**{**arguments, "shape": (channels, height, width)})
        try:
            _try(recipe.make_optimizer())
        except (LookupError, OverflowError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"`optimizer_args` of the recipe are not possible: {described(error)}"
            ) from error
        return recipe


def check_optimizer(optimizer: str, optimizer_args: Mapping[str, Any]) -> None:
    """Check the hyperparameters of an inner optimizer, before there are data or a network.

    Args:
        optimizer: its name.
        optimizer_args: its hyperparameters.

    Raises:
        ValueError: they are not possible, in the words of the run's settings.
    """
    try:
        _try(OPTIMIZERS[optimizer](**optimizer_args, groups=str))
    except (LookupError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"`inner_optimizer_args` are not possible for {optimizer}: {described(error)}"
        ) from error


# Fields that version 0.1.0 does not know, and what they are without being written.
_LATER: dict[str, Any] = {
    "augmentations_per_step": 1,
    "trainable": "all",
    "head": None,
    "head_copies": 0,
    "backbones": (),
    "networks": (),
}


def _listed(value: Any) -> Any:
    """Return a value with lists for tuples, as JSON has them."""
    if isinstance(value, Mapping):
        return {name: _listed(part) for name, part in value.items()}
    return [_listed(part) for part in value] if isinstance(value, (list, tuple)) else value


@torch.no_grad()
def _try(optimizer: Optimizer) -> None:
    """Take one step with an optimizer, whose arguments may be anything."""
    one = {"x": torch.zeros(1)}
    optimizer.update(one, optimizer.init(one), one, 0.1)
