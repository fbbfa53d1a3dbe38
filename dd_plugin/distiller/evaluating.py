"""The evaluations of a run: on the distilled set as it is, and the baselines beside it.

Between `distiller`, which asks for them, and `dd_plugin.evaluation.comparison`, which trains and
tests. The networks of an evaluation are shared out among the processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from dd_plugin.bilevel import RunState, initial_state
from dd_plugin.bilevel.step_values import tree_map
from dd_plugin.bn import revert_bn
from dd_plugin.data import RealData
from dd_plugin.distiller.networks import Networks
from dd_plugin.evaluation import Scores, network_seed, score
from dd_plugin.evaluation.comparison import Comparison, Measure, NetworkTest, compare
from dd_plugin.evaluation.heads import HeadTest
from dd_plugin.evaluation.preparation import input_batches
from dd_plugin.evaluation.training_images import PixelKind, TrainingImages

if TYPE_CHECKING:
    from dd_plugin.distiller.distiller import Distiller


def distilled_scores(distiller: Distiller, networks: int) -> Scores:
    """Return the accuracy of fresh networks trained on the distilled set.

    One for a fixed initialisation.
    """
    comparison = Comparison(
        synthetic=distiller.synthetic,
        seeds=_seeds(distiller, networks),
        pixels=("exact",),
        baselines=False,
    )
    return _compared(distiller, comparison)[TrainingImages.DISTILLED]


def baseline_scores(distiller: Distiller) -> dict[str, Scores]:
    """Return the accuracies of networks or heads trained on real images, by their keys."""
    comparison = Comparison(
        synthetic=distiller.synthetic,
        seeds=_seeds(distiller, distiller.config.final_eval_networks),
        pixels=() if distiller.head is None else ("png",),
    )
    return {images.value: scores for images, scores in _compared(distiller, comparison).items()}


def _seeds(distiller: Distiller, networks: int) -> list[int]:
    return [network_seed(distiller.config.seed, index) for index in range(networks)]


def _compared(distiller: Distiller, comparison: Comparison) -> dict[TrainingImages, Scores]:
    """Return the scores on every architecture or backbone, by what was trained on."""
    tests: Mapping[str, NetworkTest | HeadTest]
    if distiller.head is not None:
        tests = {str(place): test for place, test in enumerate(_head_tests(distiller))}
    else:
        labels = distiller.synthetic.recipe.network_labels
        tests = {label: _network_test(distiller, place) for place, label in enumerate(labels)}
    rows: dict[TrainingImages, dict[str, Scores]] = {}
    for label, test in tests.items():
        for images, scores in compare(comparison, test):
            rows.setdefault(images, {})[label] = scores
    if distiller.head is not None:
        return {images: _side_by_side(by_place) for images, by_place in rows.items()}
    return {images: Scores.joined(by_label) for images, by_label in rows.items()}


def _side_by_side(scores: Mapping[str, Scores]) -> Scores:
    """Return the accuracies of heads on several backbones as one."""
    return Scores(tuple(accuracy for each in scores.values() for accuracy in each.accuracies))


def _head_tests(distiller: Distiller) -> list[HeadTest]:
    """Return the tests of heads, the same on every process, which computes all of them."""
    assert distiller.head is not None
    _check_eval_data(distiller)
    distiller.head.prepare(to_test=True)
    return distiller.head.tests


def _network_test(distiller: Distiller, place: int) -> NetworkTest:
    """Return the test of fresh networks of one architecture."""
    synthetic, size = distiller.synthetic, distiller.config.per_device_eval_batch_size
    batches = input_batches(synthetic, _check_eval_data(distiller), size)
    networks = distiller.architectures.members[place]
    share = partial(_over_processes, distiller)

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

        return share(accuracy, seeds[:1] if distiller.architectures.mode == "fixed" else seeds)

    return NetworkTest(
        on_distilled=on_distilled,
        # What an evaluation with this seed starts from, with its stock layers.
        new_network=lambda seed: revert_bn(networks.new_model(seed)),
        train=distiller.train_data,
        test=batches,
        over_seeds=share,
    )


def _over_processes(distiller: Distiller, measure: Measure, seeds: Sequence[int]) -> Scores:
    """Return the accuracies of the networks of all seeds, of which each process measures some."""
    from accelerate.utils import gather_object

    accelerator = distiller.accelerator
    share = range(accelerator.process_index, len(seeds), accelerator.num_processes)
    measured = [(index, measure(seeds[index])) for index in share]
    return Scores(tuple(accuracy for _, accuracy in sorted(gather_object(measured))))


def _fresh_state(networks: Networks, seed: int) -> RunState:
    state = initial_state(networks.problem(), networks.new_model(seed))
    return tree_map(lambda t: t.to(networks.device), state)


def _check_eval_data(distiller: Distiller) -> RealData:
    if distiller.eval_data is None:
        raise ValueError(
            "there is no evaluation data: no split `validation` or `test` was found; give "
            "`eval_dataset` or `eval_split`"
        )
    return distiller.eval_data
