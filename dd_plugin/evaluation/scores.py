"""Accuracy of fresh networks that were trained on a synthetic set.

The protocol: every network starts afresh from its own seed, is trained by the recipe with exactly
the steps that the outer gradient saw, and is tested in full precision and in eval mode, so that its
accuracy does not depend on how the test images are batched. Reported are the mean and the standard
deviation over networks.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dd_plugin.bilevel import BilevelProblem, RunState, unroll
from dd_plugin.data.synthetic import SyntheticSet
from dd_plugin.networks.checks import DivergedWarning
from dd_plugin.seeds import Purpose, mix, untouched_generators
from dd_plugin.text import percent


@dataclass(frozen=True)
class Scores:
    """Accuracies in [0, 1], one per network.

    Attributes:
        accuracies: of all networks.
        by_model: the same for each of several architectures, by its name; empty where there is one.
        seeds: of the networks of each architecture; empty where nothing was drawn.
    """

    accuracies: tuple[float, ...]
    by_model: Mapping[str, Scores] = field(default_factory=dict, hash=False)
    seeds: tuple[int, ...] = field(default=(), compare=False)

    @classmethod
    def joined(cls, by_model: Mapping[str, Scores]) -> Scores:
        """Return the scores of several architectures as one; of one architecture its own."""
        if len(by_model) == 1:
            return next(iter(by_model.values()))
        together = (accuracy for scores in by_model.values() for accuracy in scores.accuracies)
        seeds = next(iter(by_model.values())).seeds
        return cls(tuple(together), dict(by_model), seeds)

    @property
    def mean(self) -> float:
        """The mean of the accuracies."""
        return statistics.fmean(self.accuracies)

    @property
    def std(self) -> float:
        """The standard deviation of the accuracies, of a sample; 0 for one network."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else 0.0

    def minus(self, other: Scores) -> str | None:
        """Return the difference to the scores of the same networks, trained on something else.

        Args:
            other: scores of networks with the same seeds, in the same order.

        Returns:
            Mean and standard deviation over the pairs, such as ``-0.4 ± 0.6 points``. None where
            there are fewer than two pairs, or networks without a partner: then nothing is known.
        """
        count = len(self.accuracies)
        seeds = (self.seeds, other.seeds)
        if count < 2 or count != len(other.accuracies) or (all(seeds) and seeds[0] != seeds[1]):
            return None
        pairs = zip(self.accuracies, other.accuracies, strict=True)
        points = [100 * (own - theirs) for own, theirs in pairs]
        # Adding 0 makes -0.0 positive.
        mean = round(statistics.fmean(points), 1) + 0.0
        return f"{mean:+.1f} ± {statistics.stdev(points):.1f} points"

    def to_dict(self) -> dict[str, Any]:
        """Return the accuracies as a record has them."""
        values = {"mean": self.mean, "std": self.std, "accuracies": list(self.accuracies)}
        each = {name: scores.to_dict() for name, scores in self.by_model.items()}
        return {**values, "by_model": each} if each else values

    def __str__(self) -> str:
        return percent(self.mean, self.std if len(self.accuracies) > 1 else None)


def network_seed(seed: int, index: int) -> int:
    """Return the seed of one network of an evaluation: of its weights and its training."""
    return mix(seed, Purpose.EVALUATED_NETWORK, index)


def train_on(
    synthetic: SyntheticSet,
    problem: BilevelProblem,
    state: RunState,
    seed: int,
    *,
    constants: Mapping[str, Tensor] | None = None,
) -> RunState:
    """Train a network on a synthetic set by its recipe.

    Args:
        synthetic: the set.
        problem: the kind of network, and its inner optimizer and loss.
        state: where it starts.
        seed: decides augmentation, the order of minibatches and the network's random numbers.
        constants: what is known about BatchNorm; by default what the set has learned.

    Returns:
        The state at the end.
    """
    with torch.no_grad():
        step_size = synthetic.step_size()
    run = unroll(
        problem,
        synthetic.batches(seed),
        steps=synthetic.recipe.steps,
        step_size=step_size,
        initial=state,
        constants=dict(synthetic.constants() if constants is None else constants) or None,
        seed=seed,
    )
    return run.final


def accuracy_of(
    problem: BilevelProblem,
    state: RunState,
    constants: dict[str, Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
) -> float:
    """Return the accuracy of a network in eval mode.

    Args:
        problem: the kind of network.
        state: its weights and statistics.
        constants: what a synthetic set has learned about BatchNorm, by name.
        batches: network input and class indices.

    Raises:
        ValueError: there is no image.
    """
    model = problem.model
    fixed = {name: constants.get(name, t).detach() for name, t in model.constants.items()}

    def logits(images: Tensor) -> Tensor:
        return model(
            parameters=state.parameters,
            statistics=state.statistics,
            counters=state.counters,
            constants=fixed,
            fixed=model.fixed,
            images=images,
            training=False,
            in_graph=False,
            autocast=False,
        )[0]

    with untouched_generators(), model.ready(), torch.no_grad():
        return share_right(logits, batches)


def share_right(
    logits: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]]
) -> float:
    """Return the share of images whose largest logit is their class.

    Logits that are not numbers have no largest: such an image counts as wrong.

    Raises:
        ValueError: there is no image.

    Warns:
        DivergedWarning: there are such images.
    """
    right = total = none = 0
    for images, labels in batches:
        scores = logits(images)
        diverged = scores.isnan().any(1)
        right += int(((scores.argmax(1) == labels) & ~diverged).sum())
        none += int(diverged.sum())
        total += len(labels)
    if not total:
        raise ValueError("the evaluation data must hold at least one image, got none")
    if none:
        warnings.warn(
            f"a network gave values that are not numbers (NaN) for {none:,} of {total:,} images, "
            "which count as wrong: its training has diverged; use smaller step sizes",
            DivergedWarning,
            stacklevel=2,
        )
    return right / total


def score(
    synthetic: SyntheticSet,
    problem: BilevelProblem,
    states: Sequence[RunState],
    seeds: Sequence[int],
    batches: Iterable[tuple[Tensor, Tensor]],
    constants: Mapping[str, Tensor] | None = None,
) -> Scores:
    """Train networks on a synthetic set and test each.

    Args:
        synthetic: the set.
        problem: the kind of network.
        states: where each network starts.
        seeds: of each network's training.
        batches: network input and class indices of the evaluation data; gone through once per
            network.
        constants: what is known about BatchNorm; by default what the set has learned.
    """
    known = dict(synthetic.constants() if constants is None else constants)
    accuracies = []
    for state, seed in zip(states, seeds, strict=True):
        trained = train_on(synthetic, problem, state, seed, constants=known)
        accuracies.append(accuracy_of(problem, trained, known, batches))
    return Scores(tuple(accuracies), seeds=tuple(seeds))
