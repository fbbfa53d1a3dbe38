"""The synthetic set: the outer parameters, and the batches that inner training makes of them.

After `recipe`, `parametrization`, `transforms` and `augmentation`, which it combines; before the
trainer, which moves its parameters, and the evaluation, which trains on its batches. Everything
random in a batch is a function of a seed and the step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dd_plugin.choices import LabelForm
from dd_plugin.data.augmentation import Augmentation
from dd_plugin.data.parametrization import Parametrization
from dd_plugin.data.recipe import Recipe
from dd_plugin.data.transforms import Normalization, Transform
from dd_plugin.private import version_of
from dd_plugin.seeds import InnerPurpose, mix

# Probability that a soft label starts with on its own class.
OWN_CLASS = 0.9


class SyntheticSet(nn.Module):
    """Images, labels, step sizes and learned constants, as parameters of the outer problem.

    Args:
        recipe: how they are trained on.
        images: where the images come from.
        labels: class indices ``(N,)``, sorted by group where there are groups.
        step_sizes: initial step sizes, positive: ``(steps,)``, 0-d for all steps alike, or
            ``(steps, parameters)`` if ``recipe.step_size_parameters`` names so many.
        transform: from pixel space to the network's input.
        soft_labels: learn labels. ``"probabilities"`` or True start close to ``labels``.
            ``"weights"`` of the classes in the loss may be any number; they start at one for the
            class and zero for the others (Sucholutsky and Schonlau, arXiv 1910.02551).
        learn_step_sizes: whether the step sizes are parameters or stay.
        learn_constants: whether the constants are.
        constants: what is learned about BatchNorm, by name in the network; of several networks
            as `Recipe.for_network` names it.

    Raises:
        ValueError: the numbers of images, labels, groups and step sizes do not fit together.
    """

    labels: Tensor

    def __init__(
        self,
        recipe: Recipe,
        images: Parametrization,
        labels: Tensor,
        step_sizes: Tensor,
        *,
        transform: Transform,
        soft_labels: bool | LabelForm = False,
        learn_step_sizes: bool = True,
        learn_constants: bool = True,
        constants: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.recipe, self.transform = recipe, transform
        self.augmentation = augmentation_of(recipe, transform)
        self.parametrization = images
        self.register_buffer("labels", labels)
        self._classes: tuple[Tensor, int | None, Tensor] | None = None
        self._check(recipe, images().detach(), labels, step_sizes)
        self.log_step_sizes = nn.Parameter(
            step_sizes.detach().log(), requires_grad=learn_step_sizes
        )
        self.label_form: LabelForm | None = None
        self.learned_labels: nn.Parameter | None = None
        if soft_labels:
            self.label_form = "probabilities" if soft_labels is True else soft_labels
            one_hot = F.one_hot(labels, recipe.num_classes).to(step_sizes.dtype)
            others = (1 - OWN_CLASS) / max(recipe.num_classes - 1, 1)
            self.learned_labels = nn.Parameter(torch.empty_like(one_hot))
            self.set_targets(
                one_hot if self.label_form == "weights" else one_hot * (OWN_CLASS - others) + others
            )
        self._constant_names = list(constants or {})
        self._constants = nn.ParameterList(
            [
                nn.Parameter(t.detach().clone(), requires_grad=learn_constants)
                for t in (constants or {}).values()
            ]
        )

    @staticmethod
    def _check(recipe: Recipe, images: Tensor, labels: Tensor, step_sizes: Tensor) -> None:
        count = len(images)
        if tuple(images.shape[1:]) != recipe.shape or labels.shape != (count,):
            raise ValueError(
                f"images and labels must have shapes (N, {', '.join(map(str, recipe.shape))}) and "
                f"(N,), got {tuple(images.shape)} and {tuple(labels.shape)}"
            )
        if count % recipe.groups:
            raise ValueError(
                f"`groups` must divide the number of images, {count}, got {recipe.groups}"
            )
        if recipe.batch_size is not None and recipe.batch_size > count:
            raise ValueError(
                f"`batch_size` must not exceed the number of images, {count}, got "
                f'{recipe.batch_size}; use batching="all"'
            )
        names = recipe.step_size_parameters
        shapes = [(), (recipe.steps,)] if names is None else [(recipe.steps, len(names))]
        if tuple(step_sizes.shape) not in shapes or not bool((step_sizes > 0).all()):
            raise ValueError(
                f"`step_sizes` must be positive and of shape {' or '.join(map(str, shapes))}, got "
                f"{step_sizes}"
            )

    @property
    def images_per_class(self) -> float:
        """Images per class that take the storage of the set, whose own may be stored smaller."""
        factor = self.parametrization.factor
        return len(self.labels) / (factor * factor * self.recipe.num_classes)

    def images(self) -> Tensor:
        """Return all images ``(N, C, H, W)`` in pixel space."""
        images: Tensor = self.parametrization()
        return images

    def targets(self) -> Tensor:
        """Return class indices ``(N,)``, or ``(N, classes)`` where labels are learned."""
        if self.learned_labels is None:
            return self.labels
        weights = self.label_form == "weights"
        return self.learned_labels if weights else self.learned_labels.softmax(1)

    def set_targets(self, targets: Tensor) -> None:
        """Make learned labels ``(N, classes)`` what they were."""
        assert self.learned_labels is not None
        if self.label_form == "probabilities":
            targets = targets.clamp_min(torch.finfo(targets.dtype).tiny).log()
        self.learned_labels.data = targets.clone()

    def step_sizes(self) -> Tensor:
        """Return the step sizes: positive, ``(steps,)``, ``(steps, parameters)`` or 0-d."""
        return self.log_step_sizes.exp()

    def step_size(self, start: int = 0, steps: int | None = None) -> Tensor | dict[str, Tensor]:
        """Return `step_sizes` as the engine takes them: by parameter where each has its own.

        Args:
            start: the first step of the run.
            steps: how many there are; by default all that are left. Past the last step of the
                recipe its step size is kept.
        """
        sizes, names = self.step_sizes(), self.recipe.step_size_parameters
        if sizes.dim():
            count = self.recipe.steps
            index = torch.arange(start, count if steps is None else start + steps)
            sizes = sizes[index.clamp(max=count - 1).to(sizes.device)]
        return sizes if names is None else dict(zip(names, sizes.unbind(1), strict=True))

    def constants(self, network: int | None = None) -> dict[str, Tensor]:
        """Return what is learned about BatchNorm, as `dd_plugin.bilevel.hypergradient` takes it.

        Args:
            network: place of one of several in ``recipe.architectures``; by default what is learned
                for all of them, with names that tell them apart.
        """
        everything: dict[str, Tensor] = dict(
            zip(self._constant_names, self._constants, strict=True)
        )
        return everything if network is None else self.recipe.of_network(network, everything)

    @property
    def has_constants(self) -> bool:
        """Whether anything but zeros was learned about the BatchNorm of any network."""
        return any(bool(value.any()) for value in self._constants)

    @property
    def copies_per_step(self) -> int:
        """How often an image is in the batch of a step; copies without augmentation are one."""
        return self.recipe.augmentations_per_step if self.augmentation.names else 1

    def indices(self, step: int, seed: int) -> Tensor:
        """Return the indices of the images that a step trains on, ``(images,)`` on the CPU."""
        recipe, count = self.recipe, len(self.labels)
        if recipe.batching == "groups":
            size = count // recipe.groups
            begin = step % recipe.groups * size
            return torch.arange(begin, begin + size)
        if recipe.batch_size is None:
            return torch.arange(count)
        per_pass = count // recipe.batch_size
        generator = torch.Generator().manual_seed(
            mix(seed, InnerPurpose.MINIBATCHES, step // per_pass)
        )
        order = torch.randperm(count, generator=generator)
        begin = step % per_pass * recipe.batch_size
        return order[begin : begin + recipe.batch_size]

    @property
    def classes(self) -> Tensor:
        """Return ``labels`` on the CPU; those of a GPU are waited for once."""
        version = version_of(self.labels)
        known = self._classes
        if known is None or known[0] is not self.labels or known[1] != version or version is None:
            self._classes = known = (self.labels, version, self.labels.cpu())
        return known[2]

    def batch(self, step: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return the batch of a step: network input ``(batch, C, H, W)`` and labels, with a graph.

        With several augmentations per step the batch is as many copies of the step's images, one
        after the other. Each copy is augmented by a seed of its own; the labels are repeated.

        Args:
            step: of the inner run.
            seed: of the run.
        """
        return self.batches_at_once([step], seed)[0]

    def batches_at_once(self, steps: Sequence[int], seed: int) -> list[tuple[Tensor, Tensor]]:
        """Return the same for several steps, in as many operations as for one.

        All are parts of the same tensors: they share a graph, and are in memory together.
        """
        copies = range(self.copies_per_step)
        indices = [self.indices(step, seed) for step in steps]
        chosen = torch.cat([i for i in indices for _ in copies])
        seeds = [self._augmentation_seed(seed, step, copy) for step in steps for copy in copies]
        groups = self.classes[chosen]
        chosen = chosen.to(self.labels.device)
        images, targets = self.images()[chosen], self.targets()[chosen]
        images = self.transform(self._augmented(images, seeds, groups))
        size = len(indices[0]) * len(copies)
        return list(zip(images.split(size), targets.split(size), strict=True))

    def _augmented(self, images: Tensor, seeds: Sequence[int], groups: Tensor) -> Tensor:
        """Return images with each of equal parts augmented by a seed of its own."""
        # An augmentation that somebody put in the place of ours may only be called.
        of_parts = getattr(self.augmentation, "of_parts", None)
        if of_parts is not None:
            augmented: Tensor = of_parts(images, seeds, groups=groups)
            return augmented
        size = len(images) // len(seeds)
        parts = zip(images.split(size), seeds, groups.split(size), strict=True)
        return torch.cat([self.augmentation(part, seed, groups=g) for part, seed, g in parts])

    def _augmentation_seed(self, seed: int, step: int, copy: int) -> int:
        # The first copy is that of a recipe with one.
        return mix(seed, InnerPurpose.AUGMENTATION, step, *((copy,) if copy else ()))

    def batches(self, seed: int) -> Callable[[int], tuple[Tensor, Tensor]]:
        """Return `batch` as a function of the step; equal batches of several steps are made once.

        For one run: what it has made stays as it is when the parameters move.
        """
        recipe = self.recipe
        if self.augmentation.names or (
            recipe.batching != "groups" and recipe.batch_size is not None
        ):
            return lambda step: self.batch(step, seed)
        groups = recipe.groups if recipe.batching == "groups" else 1
        batches = [self.batch(group, seed) for group in range(groups)]
        return lambda step: batches[step % groups]

    def leaves(self) -> dict[str, list[nn.Parameter]]:
        """Return the outer parameters by kind: images, labels, step_sizes, constants; empty too."""
        return {
            "images": list(self.parametrization.parameters()),
            "labels": [] if self.learned_labels is None else [self.learned_labels],
            "step_sizes": [self.log_step_sizes] if self.log_step_sizes.requires_grad else [],
            "constants": [t for t in self._constants if t.requires_grad],
        }

    def constrain_(self) -> None:
        """Put everything back into its range after an outer step."""
        self.parametrization.constrain_()


def augmentation_of(recipe: Recipe, transform: Transform) -> Augmentation:
    """Return the augmentation of a recipe, of images before a transform.

    What comes in at the borders is what the transform makes to 0, as in DSA.
    """
    fill = transform.mean if isinstance(transform, Normalization) else 0.0
    return Augmentation(recipe.augmentation, fill=fill)
