"""The evaluations of a run: on the distilled set as it is, and the baselines beside it.

Between `distiller`, which asks for them, and `dd_plugin.evaluation`, which trains and tests. Fresh
networks are shared out among the processes; heads are tested by every process.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dd_plugin.bilevel import RunState, initial_state
from dd_plugin.bilevel.step_values import tree_map
from dd_plugin.bn import revert_bn
from dd_plugin.data import RealData
from dd_plugin.distiller.architectures import Architectures
from dd_plugin.distiller.head_course import HeadCourse
from dd_plugin.distiller.networks import Networks
from dd_plugin.distiller.parts import Parts
from dd_plugin.distiller.run import Run
from dd_plugin.evaluation import InputBatches, Scores, network_seed, score
from dd_plugin.evaluation.baselines import (
    accuracy_of_module,
    train_on_all,
    train_on_random_real,
)
from dd_plugin.evaluation.heads import EIGHT_BIT, HeadTest


class Evaluator(ABC):
    """What a run asks about its distilled set."""

    @abstractmethod
    def distilled(self, networks: int) -> Scores:
        """Return the accuracy of what is trained on the distilled set as it is.

        Args:
            networks: how many fresh networks of each architecture; one for a fixed initialization.

        Raises:
            ValueError: there is no evaluation data.
        """

    @abstractmethod
    def baselines(self) -> dict[str, Scores]:
        """Return the accuracy of the same trained on real images, by the name of the baseline.

        Raises:
            ValueError: there is no evaluation data.
        """


def make_evaluator(run: Run, parts: Parts) -> Evaluator:
    """Return what evaluates the synthetic set of a run."""
    if isinstance(parts.networks, HeadCourse):
        return HeadEvaluator(run, parts, parts.networks)
    return NetworkEvaluator(run, parts, parts.networks)


@dataclass(frozen=True)
class NetworkEvaluator(Evaluator):
    """Trains fresh networks on the distilled set, and ordinary ones on real images.

    Attributes:
        run: the settings and the processes, which share out the networks.
        parts: the synthetic set and the real images.
        architectures: the networks.
    """

    run: Run
    parts: Parts
    architectures: Architectures

    def distilled(self, networks: int) -> Scores:
        """See `Evaluator`."""
        batches = self._batches()
        count = 1 if self.architectures.mode == "fixed" else networks
        return self._of_each(lambda which: self._trained(which, count, batches))

    def baselines(self) -> dict[str, Scores]:
        """See `Evaluator`: as many random real images as distilled ones, and all of them."""
        batches = self._batches()
        share = self.run.share(self.run.config.final_eval_networks)

        def of(accuracy: Callable[[int, int, InputBatches], float]) -> Scores:
            return self._of_each(
                lambda which: _gathered({i: accuracy(which, i, batches) for i in share})
            )

        return {"random real": of(self._on_few), "full data": of(self._on_all)}

    def _batches(self) -> InputBatches:
        images = _present(self.parts.evaluation)
        size = self.run.config.per_device_eval_batch_size
        return InputBatches(images, self.parts.transform, self.run.dtype, size)

    def _of_each(self, score_of: Callable[[int], Scores]) -> Scores:
        """The scores of each architecture under its name, and together."""
        labels = self.parts.synthetic.recipe.network_labels
        return Scores.joined({label: score_of(which) for which, label in enumerate(labels)})

    def _trained(self, which: int, count: int, batches: InputBatches) -> Scores:
        """The scores of fresh networks of one architecture, trained on the distilled set."""
        seeds = {i: network_seed(self.run.config.seed, i) for i in self.run.share(count)}
        networks = self.architectures.members[which]
        states = [_fresh_state(networks, seed) for seed in seeds.values()]
        accuracies: tuple[float, ...] = ()
        if states:
            scores = score(
                self.parts.synthetic,
                networks.problem(),
                states=states,
                seeds=list(seeds.values()),
                batches=batches,
                constants=self.parts.synthetic.constants(which),
            )
            accuracies = scores.accuracies
        return _gathered(dict(zip(seeds, accuracies, strict=True)))

    def _on_few(self, which: int, index: int, batches: InputBatches) -> float:
        config = self.run.config
        seed = network_seed(config.seed, index)
        network = self._ordinary(which, seed)
        train_on_random_real(
            network,
            self.parts.train,
            per_class=config.images_per_class,
            prepare=self._prepare,
            seed=seed,
        )
        return accuracy_of_module(network, batches)

    def _on_all(self, which: int, index: int, batches: InputBatches) -> float:
        seed = network_seed(self.run.config.seed, index)
        network = self._ordinary(which, seed)
        train_on_all(network, self.parts.train, self._prepare, seed)
        return accuracy_of_module(network, batches)

    def _ordinary(self, which: int, seed: int) -> torch.nn.Module:
        """The network that an evaluation with this seed starts from, with its stock layers."""
        return revert_bn(self.architectures.members[which].new_model(seed))

    def _prepare(self, images: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        augmented = self.parts.synthetic.augmentation(images.to(self.run.dtype), seed)
        return self.parts.transform(augmented), labels


@dataclass(frozen=True)
class HeadEvaluator(Evaluator):
    """Trains heads on the features of frozen networks; every process trains all of them.

    Attributes:
        run: the settings.
        parts: the synthetic set and the real images.
        head: the frozen networks and their features of the real images.
    """

    run: Run
    parts: Parts
    head: HeadCourse

    def distilled(self, networks: int) -> Scores:
        """See `Evaluator`: one head for each frozen network, however many are asked for."""
        return Scores(tuple(test.distilled(self.parts.synthetic) for test in self._tests()))

    def baselines(self) -> dict[str, Scores]:
        """See `Evaluator`: for each baseline the heads of all frozen networks."""
        config = self.run.config
        seeds = [network_seed(config.seed, i) for i in range(config.final_eval_networks)]
        accuracies: dict[str, tuple[float, ...]] = {}
        for test in self._tests():
            stored = test.distilled(self.parts.synthetic, eight_bit=True)
            accuracies[EIGHT_BIT] = (*accuracies.get(EIGHT_BIT, ()), stored)
            for name, scores in test.controls(self.parts.synthetic, config.images_per_class, seeds):
                accuracies[name] = accuracies.get(name, ()) + scores.accuracies
        return {name: Scores(values) for name, values in accuracies.items()}

    def _tests(self) -> list[HeadTest]:
        _present(self.parts.evaluation)
        self.head.prepare(to_test=True)
        return self.head.tests


def metrics_of(scores: Scores) -> dict[str, float]:
    """Return what callbacks and trackers get of an evaluation; see `Distiller.evaluate`."""
    return {
        "accuracy_mean": scores.mean,
        "accuracy_std": scores.std,
        "networks": float(len(scores.accuracies)),
        **{f"accuracy_mean/{name}": one.mean for name, one in scores.by_model.items()},
    }


def _present(data: RealData | None) -> RealData:
    """Return the images that networks are tested on.

    Raises:
        ValueError: there are none.
    """
    if data is None:
        raise ValueError(
            "there is no evaluation data: no split `validation` or `test` was found; give "
            "`eval_dataset` or `eval_split`"
        )
    return data


def _gathered(accuracies: dict[int, float]) -> Scores:
    """The scores of all processes, in the order of the networks."""
    from accelerate.utils import gather_object

    everything = gather_object(list(accuracies.items()))
    return Scores(tuple(accuracy for _, accuracy in sorted(everything)))


def _fresh_state(networks: Networks, seed: int) -> RunState:
    state = initial_state(networks.problem(), networks.new_model(seed))
    return tree_map(lambda t: t.to(networks.device), state)
