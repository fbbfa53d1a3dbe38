"""The one comparison of a distilled set with real images, for the trainer and the command.

Top of `evaluation`. Networks (`NetworkTest`) and heads (`HeadTest`) are trained on each kind of
`TrainingImages` and tested on the same real images, one network at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from torch import nn

from dd_plugin.data import RealData
from dd_plugin.data.synthetic import SyntheticSet
from dd_plugin.evaluation.baselines import (
    train_on_all,
    train_on_chosen_real,
    train_on_random_real,
)
from dd_plugin.evaluation.heads import HeadTest
from dd_plugin.evaluation.kept_baselines import NOTHING_KEPT, KeptBaselines, Training
from dd_plugin.evaluation.ordinary import accuracy_of_module, batch_size, training_steps
from dd_plugin.evaluation.preparation import InputBatches, preparation
from dd_plugin.evaluation.real_coresets import RULES, RealCoresets
from dd_plugin.evaluation.scores import Scores
from dd_plugin.evaluation.training_images import REAL, PixelKind, TrainingImages

# From the seed of a network to its accuracy.
Measure = Callable[[int], float]


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """A distilled set, and the training images that are compared.

    Attributes:
        synthetic: the set.
        seeds: of the networks of each row, and of the draws of real images.
        pixels: the kinds of distilled images.
        baselines: whether real images are compared as well.
        full_data: whether all real images are among them, which takes by far the longest.
        kinds: of real images; by default random ones and all, and for heads every kind.
    """

    synthetic: SyntheticSet
    seeds: Sequence[int]
    pixels: Sequence[PixelKind] = ("exact", "png")
    baselines: bool = True
    full_data: bool = True
    kinds: Collection[TrainingImages] | None = None

    def real_images(self, default: Collection[TrainingImages]) -> list[TrainingImages]:
        """Return the kinds of real images that are compared, in the order of the table.

        Args:
            default: the kinds where none were chosen.
        """
        kinds = default if self.kinds is None else self.kinds
        return [
            kind
            for kind in REAL
            if self.baselines and kind in kinds and (self.full_data or kind != TrainingImages.ALL)
        ]

    @property
    def per_class(self) -> int:
        """Real images of each class that take as much storage as the set."""
        return max(1, int(self.synthetic.images_per_class))


@dataclass(frozen=True, kw_only=True, eq=False)
class Baseline:
    """One kind of real images that networks are trained on.

    Attributes:
        images: the kind.
        measure: trains the network of a seed, and tests it.
        shown: how many images a network sees in training, to share the work out by.
    """

    images: TrainingImages
    measure: Measure
    shown: int


@dataclass(frozen=True, kw_only=True, eq=False)
class NetworkTest:
    """Fresh networks of one architecture, and the real images that they are tested on.

    The counterpart of `HeadTest` for networks that are trained whole.

    Attributes:
        on_distilled: the accuracies of networks of these seeds, trained on the distilled images.
        new_network: the network of a seed with its stock layers, not trained yet.
        train: real images to train on; None where there are none.
        test: real images to test on.
        name: of the network; None where it has none, and its baselines are not kept.
        kept: the accuracies of baselines that were measured before.
    """

    on_distilled: Callable[[PixelKind, Sequence[int]], Scores]
    new_network: Callable[[int], nn.Module]
    train: RealData | None
    test: InputBatches
    name: str | None = None
    kept: KeptBaselines = field(default=NOTHING_KEPT)

    def baselines(self, comparison: Comparison) -> list[Baseline]:
        """Return the baselines of a comparison; none where it has no real images."""
        kinds = comparison.real_images((TrainingImages.RANDOM, TrainingImages.ALL))
        if not kinds:
            return []
        synthetic, train, per_class = comparison.synthetic, self.train, comparison.per_class
        assert train is not None
        prepare, autocast = preparation(synthetic), synthetic.recipe.autocast

        def on_few(network: nn.Module, seed: int) -> None:
            train_on_random_real(
                network, train, per_class, prepare=prepare, seed=seed, autocast=autocast
            )

        def on_all(network: nn.Module, seed: int) -> None:
            train_on_all(network, train, prepare=prepare, seed=seed, autocast=autocast)

        coresets = RealCoresets(train)

        def on_chosen(kind: TrainingImages) -> Callable[[nn.Module, int], None]:
            def train_on(network: nn.Module, seed: int) -> None:
                images, labels = coresets.images(kind, per_class)
                train_on_chosen_real(
                    network, images, labels, prepare=prepare, seed=seed, autocast=autocast
                )

            return train_on

        few = per_class * synthetic.recipe.num_classes
        trainings: dict[TrainingImages, Callable[[nn.Module, int], None]] = {
            TrainingImages.RANDOM: on_few,
            TrainingImages.ALL: on_all,
            **{kind: on_chosen(kind) for kind in RULES},
        }
        counts = {kind: train.count() if kind is TrainingImages.ALL else few for kind in REAL}
        return [self._baseline(synthetic, kind, counts[kind], trainings[kind]) for kind in kinds]

    def _baseline(
        self,
        synthetic: SyntheticSet,
        images: TrainingImages,
        count: int | None,
        train: Callable[[nn.Module, int], None],
    ) -> Baseline:
        """The baseline of so many images; None is a stream."""

        def measure(seed: int) -> float:
            network = self.new_network(seed)

            def trained() -> float:
                train(network, seed)
                return accuracy_of_module(network, self.test)

            training = Training(
                model=self.name,
                images=images,
                count=count,
                seed=seed,
                train=self.train,
                test=self.test.data,
            )
            return self.kept.accuracy(training, network, synthetic, trained)

        return Baseline(
            images=images, measure=measure, shown=training_steps(count) * batch_size(count)
        )


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
    if isinstance(tested, NetworkTest):
        for baseline in tested.baselines(comparison):
            accuracies = tuple(map(baseline.measure, seeds))
            yield baseline.images, Scores(accuracies, seeds=tuple(seeds))
    elif kinds := comparison.real_images(REAL):
        yield from tested.controls(synthetic, comparison.per_class, seeds, kinds=kinds)
