"""The one comparison of a distilled set with real images, for the trainer and the command.

Top of `evaluation`. Networks (`NetworkTest`) and heads (`HeadTest`) are trained on each kind of
`TrainingImages` and tested on the same real images, one network at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from dd_plugin.data import RealData
from dd_plugin.data.synthetic import SyntheticSet
from dd_plugin.evaluation.baselines import (
    accuracy_of_module,
    train_on_all,
    train_on_random_real,
)
from dd_plugin.evaluation.heads import HeadTest
from dd_plugin.evaluation.preparation import InputBatches, preparation
from dd_plugin.evaluation.scores import Scores
from dd_plugin.evaluation.training_images import PixelKind, TrainingImages

# From the seed of a network to its accuracy.
Measure = Callable[[int], float]


def one_after_the_other(measure: Measure, seeds: Sequence[int]) -> Scores:
    """Return the accuracies of the networks of all seeds, measured on this process."""
    return Scores(tuple(map(measure, seeds)), seeds=tuple(seeds))


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """A distilled set, and the training images that are compared.

    Attributes:
        synthetic: the set.
        seeds: of the networks of each row, and of the draws of real images.
        pixels: the kinds of distilled images.
        baselines: whether real images are compared as well.
        full_data: whether all real images are among them, which takes by far the longest.
    """

    synthetic: SyntheticSet
    seeds: Sequence[int]
    pixels: Sequence[PixelKind] = ("exact", "png")
    baselines: bool = True
    full_data: bool = True

    @property
    def per_class(self) -> int:
        """Real images of each class that take as much storage as the set."""
        return max(1, int(self.synthetic.images_per_class))


@dataclass(frozen=True, kw_only=True, eq=False)
class NetworkTest:
    """Fresh networks of one architecture, and the real images that they are tested on.

    The counterpart of `HeadTest` for networks that are trained whole.

    Attributes:
        on_distilled: the accuracies of networks of these seeds, trained on the distilled images.
        new_network: the network of a seed with its stock layers, not trained yet.
        train: real images to train on; None where there are none.
        test: real images to test on.
        over_seeds: measures each seed; several processes share the seeds here.
    """

    on_distilled: Callable[[PixelKind, Sequence[int]], Scores]
    new_network: Callable[[int], nn.Module]
    train: RealData | None
    test: InputBatches
    over_seeds: Callable[[Measure, Sequence[int]], Scores] = one_after_the_other

    def controls(
        self, synthetic: SyntheticSet, per_class: int, seeds: Sequence[int], *, full: bool = True
    ) -> Iterator[tuple[TrainingImages, Scores]]:
        """Yield accuracies of networks trained on real images; see `HeadTest.controls`."""
        train = self.train
        assert train is not None
        prepare = preparation(synthetic)

        def on_few(seed: int) -> float:
            network = self.new_network(seed)
            train_on_random_real(network, train, per_class, prepare=prepare, seed=seed)
            return accuracy_of_module(network, self.test)

        def on_all(seed: int) -> float:
            network = self.new_network(seed)
            train_on_all(network, train, prepare=prepare, seed=seed)
            return accuracy_of_module(network, self.test)

        yield TrainingImages.RANDOM, self.over_seeds(on_few, seeds)
        if full:
            yield TrainingImages.ALL, self.over_seeds(on_all, seeds)


def compare(
    comparison: Comparison, tested: NetworkTest | HeadTest
) -> Iterator[tuple[TrainingImages, Scores]]:
    """Yield the accuracies of a network, or of the head of one, by what it was trained on.

    Args:
        comparison: the set, and what it is compared with.
        tested: the network.
    """
    synthetic, seeds = comparison.synthetic, comparison.seeds
    for pixels in comparison.pixels:
        if isinstance(tested, HeadTest):
            scores = Scores((tested.distilled(synthetic, eight_bit=pixels == "png"),))
        else:
            scores = tested.on_distilled(pixels, seeds)
        yield TrainingImages.distilled(pixels), scores
    if comparison.baselines:
        yield from tested.controls(
            synthetic, comparison.per_class, seeds, full=comparison.full_data
        )
