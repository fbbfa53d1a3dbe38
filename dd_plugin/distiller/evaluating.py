"""The evaluations of a run: on the distilled set as it is, and the baselines beside it.

Between `distiller`, which asks for them, and `dd_plugin.evaluation.comparison`, which trains and
tests. Fresh networks are shared out among the processes; heads are tested by every process. What
baselines reached is kept in the folder of the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from dd_plugin.bilevel import RunState, initial_state
from dd_plugin.bilevel.step_values import tree_map
from dd_plugin.bn import revert_bn
from dd_plugin.data import RealData
from dd_plugin.data.recipe import Recipe
from dd_plugin.data.synthetic import SyntheticSet
from dd_plugin.distiller.architectures import Architectures
from dd_plugin.distiller.baseline_names import chosen_baselines
from dd_plugin.distiller.head_course import HeadCourse
from dd_plugin.distiller.moving_bar import MovingBar
from dd_plugin.distiller.networks import Networks
from dd_plugin.distiller.parts import Parts
from dd_plugin.distiller.results import Results
from dd_plugin.distiller.run import Run
from dd_plugin.evaluation import Scores, network_seed, score
from dd_plugin.evaluation.comparison import (
    Baseline,
    Comparison,
    Measure,
    NetworkTest,
    compare,
)
from dd_plugin.evaluation.heads import HeadTest
from dd_plugin.evaluation.kept_baselines import KeptBaselines
from dd_plugin.evaluation.preparation import input_batches
from dd_plugin.evaluation.training_images import PixelKind, TrainingImages, with_pixels


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
            TypeError: ``networks`` is no number.
            ValueError: there is no evaluation data, or ``networks`` is less than 1.
        """
        _check_count(networks)
        comparison = Comparison(
            synthetic=self.parts.synthetic,
            seeds=self._seeds(networks),
            pixels=("exact",),
            baselines=False,
        )
        return self._compared(comparison)[TrainingImages.DISTILLED]

    def results(self) -> Results:
        """Return the accuracy of `distilled` in the table of the run, which has no other row yet.

        Raises:
            ValueError: there is no evaluation data.
        """
        config, classes = self.run.config, self.parts.synthetic.recipe.num_classes
        distilled = self.distilled(config.final_eval_networks)
        return Results({TrainingImages.DISTILLED.value: distilled}, config, classes)

    def baselines(self) -> dict[str, Scores]:
        """Return the accuracies of networks or heads trained on real images, by their keys.

        Raises:
            ValueError: there is no evaluation data.
        """
        chosen = chosen_baselines(self.run.config.baselines)
        comparison = Comparison(
            synthetic=self.parts.synthetic,
            seeds=self._seeds(self.run.config.final_eval_networks),
            pixels=("png",) if isinstance(self.parts.networks, HeadCourse) else (),
            kinds=None if chosen is None else [*map(TrainingImages.baseline, chosen)],
        )
        return {images.value: scores for images, scores in self._compared(comparison).items()}

    def _seeds(self, networks: int) -> list[int]:
        return [network_seed(self.run.config.seed, index) for index in range(networks)]

    def _compared(self, comparison: Comparison) -> dict[TrainingImages, Scores]:
        """The scores of every architecture or frozen network together, by the training images."""
        if isinstance(self.parts.networks, HeadCourse):
            heads = self._head_tests(self.parts.networks)
            return {
                images: _side_by_side(by_place)
                for images, by_place in _rows(comparison, heads).items()
            }
        return self._networks_compared(comparison, self.parts.networks)

    def _networks_compared(
        self, comparison: Comparison, architectures: Architectures
    ) -> dict[TrainingImages, Scores]:
        """The scores of networks of every architecture, which the processes share out."""
        labels = self.parts.synthetic.recipe.network_labels
        jobs: list[_Job] = []
        for place, label in enumerate(labels):
            test = self._network_test(architectures, place)
            for row in [*self._on_distilled(comparison, test), *test.baselines(comparison)]:
                # With one initialization all networks of the distilled images are the same.
                alike = architectures.mode == "fixed" and row.images.pixels is not None
                seeds = comparison.seeds[:1] if alike else comparison.seeds
                jobs += [_Job(row, label, seed) for seed in seeds]
        rows: dict[TrainingImages, dict[str, list[tuple[int, float]]]] = {}
        for job, accuracy in zip(jobs, self._over_processes(jobs), strict=True):
            of_images = rows.setdefault(job.row.images, {})
            of_images.setdefault(job.label, []).append((job.seed, accuracy))
        return {
            images: Scores.joined({label: _scores_of(pairs) for label, pairs in by_label.items()})
            for images, by_label in rows.items()
        }

    def _on_distilled(self, comparison: Comparison, test: NetworkTest) -> list[Baseline]:
        """The networks of the distilled images, as work to share out."""
        synthetic = comparison.synthetic
        shown = test.shown(synthetic)

        def measured(pixels: PixelKind) -> Measure:
            chosen = with_pixels(synthetic, pixels)
            return lambda seed: test.on_set(chosen, [seed]).accuracies[0]

        return [
            Baseline(images=TrainingImages.distilled(pixels), measure=measured(pixels), shown=shown)
            for pixels in comparison.pixels
        ]

    def _head_tests(self, head: HeadCourse) -> list[HeadTest]:
        _present(self.parts.evaluation)
        head.prepare(to_test=True)
        return head.tests

    def _network_test(self, architectures: Architectures, place: int) -> NetworkTest:
        """The test of fresh networks of one architecture."""
        synthetic, size = self.parts.synthetic, self.run.config.per_device_eval_batch_size
        batches = input_batches(synthetic, _present(self.parts.evaluation), size)
        networks = architectures.members[place]

        def on_set(trained_on: SyntheticSet, seeds: Sequence[int]) -> Scores:
            problem, constants = networks.problem(), trained_on.constants(place)
            states = [_fresh_state(networks, seed) for seed in seeds]
            return score(
                trained_on,
                problem,
                states=states,
                seeds=seeds,
                batches=batches,
                constants=constants,
            )

        return NetworkTest(
            on_set=on_set,
            # What an evaluation with this seed starts from, with its stock layers.
            new_network=lambda seed: revert_bn(networks.new_model(seed)),
            train=self.parts.train,
            test=batches,
            name=_name_of(synthetic.recipe, place),
            kept=KeptBaselines.in_folder(self.run.folder),
        )

    def _over_processes(self, jobs: Sequence[_Job]) -> list[float]:
        """The accuracies of networks, of which each process measures some."""
        from accelerate.utils import gather_object

        accelerator = self.run.accelerator
        costs = [job.row.shown for job in jobs]
        mine = shared_out(costs, accelerator.num_processes)[accelerator.process_index]
        is_shown = accelerator.is_main_process and not self.run.config.disable_tqdm
        measured: list[tuple[int, float]] = []
        words = "evaluate: {done} of {all} networks"
        with MovingBar([costs[index] for index in mine], words, shown=is_shown) as bar:
            for index in mine:
                measured.append((index, jobs[index].row.measure(jobs[index].seed)))
                bar.add()
        return [accuracy for _, accuracy in sorted(gather_object(measured))]


@dataclass(frozen=True, eq=False)
class _Job:
    """One network: what it is trained on, the name of its architecture, and its seed."""

    row: Baseline
    label: str
    seed: int


def shared_out(costs: Sequence[int], processes: int) -> list[list[int]]:
    """Return the places of the work of each process: the longest first, to the one that is free."""
    shares: list[list[int]] = [[] for _ in range(processes)]
    loads = [0] * processes
    for place in sorted(range(len(costs)), key=lambda place: -costs[place]):
        free = loads.index(min(loads))
        shares[free].append(place)
        loads[free] += costs[place]
    return shares


def _scores_of(pairs: Sequence[tuple[int, float]]) -> Scores:
    seeds, accuracies = zip(*pairs, strict=True)
    return Scores(accuracies, seeds=seeds)


def _name_of(recipe: Recipe, place: int) -> str | None:
    """The name of an architecture in tables; None where it is the user's own."""
    named = recipe.architectures[place].model is not None
    return recipe.network_labels[place] if named else None


def metrics_of(scores: Scores) -> dict[str, float]:
    """Return what callbacks and trackers get of an evaluation; see `Distiller.evaluate`."""
    return {
        "accuracy_mean": scores.mean,
        "accuracy_std": scores.std,
        "networks": float(len(scores.accuracies)),
        **{f"accuracy_mean/{name}": one.mean for name, one in scores.by_model.items()},
    }


def _rows(
    comparison: Comparison, tests: Sequence[HeadTest]
) -> dict[TrainingImages, dict[int, Scores]]:
    """The scores of every test, by the training images."""
    rows: dict[TrainingImages, dict[int, Scores]] = {}
    for place, test in enumerate(tests):
        for images, scores in compare(comparison, test):
            rows.setdefault(images, {})[place] = scores
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


def _check_count(networks: Any) -> None:
    """Check a number of networks, in whose place `transformers.Trainer` takes images.

    Raises:
        TypeError: it is no whole number.
        ValueError: it is less than 1.
    """
    if not isinstance(networks, Integral):
        raise TypeError(
            f"`networks` must be a whole number, got {type(networks).__name__}; images to "
            "evaluate on are given as `Distiller(eval_dataset=...)`"
        )
    if networks < 1:
        raise ValueError(
            f"`networks` must be at least 1, got {networks}; leave it out for `eval_networks`"
        )
