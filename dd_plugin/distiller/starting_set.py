"""The set that a run starts from: images, labels and step sizes that were learned before.

Used by `parts` and `initial_set`, for the setting `start_from`. The classes of the set keep what
was learned of them. Classes that the real images have beside these, and further images of each
class, begin as `image_init` says.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from dd_plugin.data import RealData, Recipe, SyntheticSet, Transform
from dd_plugin.data.growing import grown_labels, grown_step_sizes, in_words, same_transform
from dd_plugin.distiller.checkpoint import find_checkpoint
from dd_plugin.distiller.config import DistillerConfig
from dd_plugin.hub.folder import CORE
from dd_plugin.hub.reading import TENSORS, read_set
from dd_plugin.hub.record import Record

logger = logging.getLogger(__name__)

_MOST_NAMES = 10


class StartingSet:
    """A distilled set that a run starts from.

    Args:
        name: what the user calls it.
        synthetic: its images, labels and step sizes.
        schedule: the ``inner_schedule`` that it was distilled with, if its record has it.
    """

    def __init__(self, name: str, synthetic: SyntheticSet, schedule: str | None = None) -> None:
        self.name, self.synthetic, self.schedule = name, synthetic, schedule
        self.recipe = synthetic.recipe

    @classmethod
    def of(cls, config: DistillerConfig) -> StartingSet | None:
        """Read the set that the settings name; a resumed run has it in its checkpoint.

        Raises:
            DistilledFormatError: it is no distilled set, or a damaged one.
            DownloadError: the Hub does not give it.
        """
        if config.start_from is None:
            return None
        if (core := _core_of(config)) is not None:
            stored = read_set(core, names=(TENSORS,))
            return cls(config.start_from, stored.synthetic, config.inner_schedule)
        from dd_plugin.hub import DistilledDataset  # with the client of the Hub

        opened = DistilledDataset.from_pretrained(config.start_from, token=config.hub_token)
        schedule = Record.from_json(opened.record).about.config.inner_schedule
        return cls(config.start_from, opened.synthetic("exact"), schedule)

    def check(self, config: DistillerConfig, train: RealData) -> None:
        """Check that a run on these real images can start from the set.

        Raises:
            ValueError: sizes, channels, classes or labels do not go together.
        """
        self._check_shape(train)
        self._check_classes(train)
        self._check_labels(config)
        self._check_counts(config)

    def _check_shape(self, train: RealData) -> None:
        (channels, *size), (real_channels, *real_size) = self.recipe.shape, train.shape
        if channels != real_channels:
            kinds = {1: "gray", 3: "color"}
            raise ValueError(
                f"`start_from` {self.name!r} has images of {channels} channels, the real images "
                f"have {real_channels}; convert the real ones to "
                f"{kinds.get(channels, f'{channels} channels')}, or start from another set"
            )
        if size != real_size:
            height, width = size
            remedy = f"give `image_size={height}`" if height == width else "resize the real ones"
            raise ValueError(
                f"`start_from` {self.name!r} has images of {height} x {width} pixels, the real "
                f"images have {real_size[0]} x {real_size[1]}; {remedy}, or start from another set"
            )

    def _check_classes(self, train: RealData) -> None:
        names = list(self.recipe.class_names)
        missing = [name for name in names if name not in train.class_names]
        if missing:
            raise ValueError(
                f"`start_from` {self.name!r} has the classes {_listed(missing)}, of which there "
                f"are no real images: theirs are {_listed(train.class_names)}. Add real images of "
                "these classes, under the same names; or distill the new classes alone and put "
                "both sets together with `dd-plugin merge`"
            )
        clashing = [
            (old, new)
            for old in names
            for new in train.class_names
            if new not in names and old.strip().casefold() == new.strip().casefold()
        ]
        if clashing:
            old, new = clashing[0]
            raise ValueError(
                f"`start_from` {self.name!r} has the class {old!r} and the real images have "
                f"{new!r} as another one; give both the same name, or names that differ by "
                "more than case and spaces"
            )

    def _check_labels(self, config: DistillerConfig) -> None:
        form = self.synthetic.label_form
        if form is None:
            return  # learned ones begin at the classes
        if not config.soft_labels:
            raise ValueError(
                f"`soft_labels` must be on, since `start_from` {self.name!r} has learned labels, "
                "which would be lost; give `soft_labels`, or start from a set without them"
            )
        if config.label_form != form:
            raise ValueError(
                f'`label_form` must be "{form}", as the labels of `start_from` {self.name!r} are, '
                f'got "{config.label_form}"'
            )

    def _check_counts(self, config: DistillerConfig) -> None:
        factor, own = self.synthetic.parametrization.factor, config.trained_per_class
        if config.is_upsampled and factor != config.upsample_factor:
            stored = f"stored {factor} times smaller" if factor > 1 else "of full size"
            remedy = f"give `upsample_factor={factor}` or " if factor > 1 else "use "
            raise ValueError(
                f"`start_from` {self.name!r} has images {stored}, which `upsample_factor` "
                f"{config.upsample_factor} would blur; {remedy}`parametrization=pixels`"
            )
        largest = int(self.synthetic.labels.bincount().max())
        if largest > own:
            least = math.ceil(largest / (factor * factor if config.is_upsampled else 1))
            raise ValueError(
                f"`images_per_class` must be at least {least}, since `start_from` {self.name!r} "
                f"has {largest} images of a class, got {config.images_per_class}"
            )

    def transform(self, config: DistillerConfig, of_run: Transform) -> Transform:
        """Return the transform that the images were learned with, or refuse another one.

        Args:
            config: of the run.
            of_run: the transform that the settings and the real images give.

        Raises:
            ValueError: the settings ask for another one.
        """
        of_set = self.synthetic.transform
        is_head = config.trainable == "head"
        if same_transform(of_set, of_run) or is_head or self.recipe.trainable == "head":
            return of_run  # the pixels that a backbone prepares are those of any set
        if config.normalization != "auto":
            raise ValueError(
                f'`normalization` must be "auto", which keeps the one of `start_from` '
                f'{self.name!r} ({in_words(of_set)}), got "{config.normalization}", which is '
                f"another ({in_words(of_run)}); leave `normalization` out, or start from a set "
                "with that one"
            )
        logger.info("the normalization is that of %r: %s", self.name, in_words(of_set))
        return of_set

    def rows(self, class_names: list[str], labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return which images of a run are those of the set.

        Args:
            class_names: of the run.
            labels: of the images of the run, in any order.

        Returns:
            Rows of the run, and the row of the set that each of them shows: the first images of a
            class in the run are those of the set, in their order.
        """
        here, there = [], []
        for place, name in enumerate(self.recipe.class_names):
            own = (self.synthetic.labels == place).nonzero()[:, 0]
            rows = (labels.cpu() == class_names.index(name)).nonzero()[:, 0]
            here.append(rows[: len(own)])
            there.append(own)
        return torch.cat(here), torch.cat(there)

    @torch.no_grad()
    def take_over(self, synthetic: SyntheticSet, config: DistillerConfig) -> None:
        """Give the set of a run the labels and the stored pixels that were learned before.

        Its images show those of the set already.

        Args:
            synthetic: the set of the run.
            config: of the run.
        """
        names = list(synthetic.recipe.class_names)
        here, there = self.rows(names, synthetic.labels)
        images = synthetic.parametrization
        learned = self.synthetic.parametrization
        if images.factor == learned.factor:
            images.show_(here.to(synthetic.labels.device), learned.stored()[there])
        if self.synthetic.label_form is None or synthetic.learned_labels is None:
            return
        places = [names.index(name) for name in self.recipe.class_names]
        old = grown_labels(self.synthetic.targets(), config.label_form, places, len(names))
        targets = synthetic.targets().clone()
        targets[here.to(targets.device)] = old[there].to(targets)
        synthetic.set_targets(targets)

    def step_sizes(self, config: DistillerConfig, recipe: Recipe, fresh: Tensor) -> Tensor:
        """Return the step sizes that a run begins with.

        Args:
            config: of the run.
            recipe: of the run.
            fresh: what they are without the set.

        Raises:
            ValueError: several would have to become one.
        """
        learned, old = self.synthetic.step_sizes(), self.recipe
        alike = old.trainable == recipe.trainable and old.optimizer == recipe.optimizer
        if learned.dim() == 2:
            alike &= old.step_size_parameters == recipe.step_size_parameters
        if config.inner_schedule == "cosine":
            # Its last steps are small: none of them is to be repeated, or left out.
            alike &= learned.dim() > 0 and old.steps == recipe.steps
            alike &= self.schedule == "cosine"
        if "ridge" in (recipe.head, old.head):
            return fresh
        if not alike:
            logger.warning(
                "the step sizes of %r are for another optimizer, network or schedule: those of "
                "this run begin at inner_lr",
                self.name,
            )
            return fresh
        if config.inner_lr != DistillerConfig.inner_lr and config.resume_from_checkpoint is None:
            logger.warning(
                "`inner_lr` (%g) has no effect: the step sizes begin as those of `start_from` %r",
                config.inner_lr,
                self.name,
            )
        constant = config.step_sizes == "constant" and learned.dim() == 1
        shape = (recipe.steps,) if constant else tuple(fresh.shape)
        return grown_step_sizes(learned, shape).to(fresh)

    def constants(self, config: DistillerConfig, fresh: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what is learned about BatchNorm or a head, from the set where it has the same.

        Args:
            config: of the run.
            fresh: what they are without the set.
        """
        if config.trainable != "head" and not config.learns_statistics:
            if self.synthetic.has_constants:
                logger.warning(
                    "the corrections of BatchNorm that %r has learned are left out, since this run "
                    "learns none; `statistics_corrections=learned` keeps them",
                    self.name,
                )
            return dict(fresh)
        old = self.synthetic.constants()
        return {
            name: old[name] if name in old and old[name].shape == value.shape else value
            for name, value in fresh.items()
        }


def _core_of(config: DistillerConfig) -> Path | None:
    """Return the folder of the set in the checkpoint that a run resumes from, if there is one."""
    if config.resume_from_checkpoint is None:
        return None
    core = find_checkpoint(Path(config.output_dir), config.resume_from_checkpoint) / CORE
    return core if core.is_dir() else None


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(map(repr, names[:_MOST_NAMES])) + more
