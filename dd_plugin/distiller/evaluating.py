"""The evaluations of a run: on the distilled set as it is, and the baselines beside it.

Between `distiller`, which asks for them, and `dd_plugin.evaluation.comparison`, which trains and
tests. Fresh networks are shared out among the processes; heads are tested by every process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from dd_plugin.bilevel import RunState, initial_state
from dd_plugin.bilevel.step_values import tree_map
from dd_plugin.bn import revert_bn
from dd_plugin.data import RealData
from dd_plugin.distiller.architectures import Architectures
from dd_plugin.distiller.head_course import HeadCourse
from dd_plugin.distiller.networks import Networks
from dd_plugin.distiller.parts import Parts
from dd_plugin.distiller.run import Run
from dd_plugin.evaluation import Scores, network_seed, score
from dd_plugin.evaluation.comparison import Comparison, Measure, NetworkTest, compare
from dd_plugin.evaluation.heads import HeadTest
from dd_plugin.evaluation.preparation import input_batches
from dd_plugin.evaluation.training_images import PixelKind, TrainingImages

Key = TypeVar("Key")


@dataclass(frozen=True)
class Evaluator:
    """Trains on the distilled set and on real images, and tests.

    Attributes:
        run: the settings and the processes.
        parts: the synthetic set, the real images, and the networks or heads.
    """

    run: Run
    parts: Parts

    def distilled(self, networks: int) -> Scores:
        """Return the accuracy of what is trained on the distilled set as it is.

        Args:
            networks: how many fresh networks of each architecture; one for a fixed initialization,
                one head for each frozen network.

        Raises:
            ValueError: there is no evaluation data.
        """
        comparison = Comparison(
            synthetic=self.parts.synthetic,
            seeds=self._seeds(networks),
            pixels=("exact",),
            baselines=False,
        )
        return self._compared(comparison)[TrainingImages.DISTILLED]

    def baselines(self) -> dict[str, Scores]:
        """Return the accuracies of networks or heads trained on real images, by their keys.

        Raises:
            ValueError: there is no evaluation data.
        """
        comparison = Comparison(
            synthetic=self.parts.synthetic,
            seeds=self._seeds(self.run.config.final_eval_networks),
            pixels=("png",) if isinstance(self.parts.networks, HeadCourse) else (),
        )
        return {images.value: scores for images, scores in self._compared(comparison).items()}

    def _seeds(self, networks: int) -> list[int]:
        return [network_seed(self.run.config.seed, index) for index in range(networks)]

    def _compared(self, comparison: Comparison) -> dict[TrainingImages, Scores]:
        """The scores of every architecture or frozen network together, by the training images."""
        if isinstance(self.parts.networks, HeadCourse):
            heads = dict(enumerate(self._head_tests(self.parts.networks)))
            return {
                images: _side_by_side(by_place)
                for images, by_place in _rows(comparison, heads).items()
            }
        labels = self.parts.synthetic.recipe.network_labels
        architectures = self.parts.networks
        networks = {
            label: self._network_test(architectures, place) for place, label in enumerate(labels)
        }
        return {
            images: Scores.joined(by_label)
            for images, by_label in _rows(comparison, networks).items()
        }

    def _head_tests(self, head: HeadCourse) -> list[HeadTest]:
        _present(self.parts.evaluation)
        head.prepare(to_test=True)
        return head.tests

    def _network_test(self, architectures: Architectures, place: int) -> NetworkTest:
        """The test of fresh networks of one architecture."""
        synthetic, size = self.parts.synthetic, self.run.config.per_device_eval_batch_size
        batches = input_batches(synthetic, _present(self.parts.evaluation), size)
        networks = architectures.members[place]

        def on_distilled(pixels: PixelKind, seeds: Sequence[int]) -> Scores:
            assert pixels == "exact"
            problem, constants = networks.problem(), synthetic.constants(place)

            def accuracy(seed: int) -> float:
                return score(
                    synthetic,
                    problem,
                    states=[_fresh_state(networks, seed)],
                    seeds=[seed],
                    batches=batches,
                    constants=constants,
                ).mean

            fixed = architectures.mode == "fixed"
            return self._over_processes(accuracy, seeds[:1] if fixed else seeds)

        return NetworkTest(
            on_distilled=on_distilled,
            # What an evaluation with this seed starts from, with its stock layers.
            new_network=lambda seed: revert_bn(networks.new_model(seed)),
            train=self.parts.train,
            test=batches,
            over_seeds=self._over_processes,
        )

    def _over_processes(self, measure: Measure, seeds: Sequence[int]) -> Scores:
        """The accuracies of the networks of all seeds, of which each process measures some."""
        from accelerate.utils import gather_object

        measured = [(index, measure(seeds[index])) for index in self.run.share(len(seeds))]
        accuracies = tuple(accuracy for _, accuracy in sorted(gather_object(measured)))
        return Scores(accuracies, seeds=tuple(seeds))


def metrics_of(scores: Scores) -> dict[str, float]:
    """Return what callbacks and trackers get of an evaluation; see `Distiller.evaluate`."""
    return {
        "accuracy_mean": scores.mean,
        "accuracy_std": scores.std,
        "networks": float(len(scores.accuracies)),
        **{f"accuracy_mean/{name}": one.mean for name, one in scores.by_model.items()},
    }


def _rows(
    comparison: Comparison, tests: Mapping[Key, NetworkTest | HeadTest]
) -> dict[TrainingImages, dict[Key, Scores]]:
    """The scores of every test, by the training images."""
    rows: dict[TrainingImages, dict[Key, Scores]] = {}
    for name, test in tests.items():
        for images, scores in compare(comparison, test):
            rows.setdefault(images, {})[name] = scores
    return rows


def _side_by_side(scores: Mapping[int, Scores]) -> Scores:
    """The accuracies of heads on several frozen networks as one."""
    return Scores(
        tuple(accuracy for each in scores.values() for accuracy in each.accuracies),
        seeds=tuple(seed for each in scores.values() for seed in each.seeds),
    )


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


def _fresh_state(networks: Networks, seed: int) -> RunState:
    state = initial_state(networks.problem(), networks.new_model(seed))
    return tree_map(lambda t: t.to(networks.device), state)
