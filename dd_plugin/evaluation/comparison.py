"""The one comparison of a distilled set with real images, for the trainer and the command.

Top of `evaluation`. Networks (`NetworkTest`) and heads (`HeadTest`) are trained on each kind of
`TrainingImages` and tested on the same real images, one network at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from dd_plugin.data import RealData
from dd_plugin.data.synthetic import SyntheticSet
from dd_plugin.evaluation import difficulty
from dd_plugin.evaluation.baselines import (
    train_on_all,
    train_on_chosen_real,
    train_on_random_real,
)
from dd_plugin.evaluation.heads import HeadTest
from dd_plugin.evaluation.kept_baselines import NOTHING_KEPT, KeptBaselines, Training
from dd_plugin.evaluation.label_controls import controlled, without_senseless
from dd_plugin.evaluation.ordinary import accuracy_of_module, batch_size, training_steps
from dd_plugin.evaluation.preparation import InputBatches, input_batches, preparation
from dd_plugin.evaluation.real_coresets import DIFFICULTY_RULES, RULES, RealCoresets
from dd_plugin.evaluation.scores import Scores
from dd_plugin.evaluation.training_images import (
    BASELINES,
    LABEL_CONTROLS,
    OF_HEADS,
    OF_NETWORKS,
    PixelKind,
    TrainingImages,
    with_pixels,
)

# From the seed of a network to its accuracy.
Measure = Callable[[int], float]
# Real images at a time, where their difficulty is measured.
_BATCH = 500


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """A distilled set, and the training images that are compared.

    Attributes:
        synthetic: the set.
        seeds: of the networks of each row, and of the draws of real images.
        pixels: the kinds of distilled images.
        baselines: whether anything else is compared as well.
        full_data: whether all real images are among it, which takes by far the longest.
        kinds: of baselines; by default random real images and all, for heads those that are chosen
            by their place too.
    """

    synthetic: SyntheticSet
    seeds: Sequence[int]
    pixels: Sequence[PixelKind] = ("exact", "png")
    baselines: bool = True
    full_data: bool = True
    kinds: Collection[TrainingImages] | None = None

    def chosen(self, default: Collection[TrainingImages]) -> list[TrainingImages]:
        """Return the kinds of baselines that are compared, in the order of the table.

        Args:
            default: the kinds where none were chosen.
        """
        kinds = default if self.kinds is None else self.kinds
        return [
            kind
            for kind in BASELINES
            if self.baselines and kind in kinds and (self.full_data or kind != TrainingImages.ALL)
        ]

    @property
    def per_class(self) -> int:
        """Real images of each class that take as much storage as the set."""
        return max(1, int(self.synthetic.images_per_class))


@dataclass(frozen=True, kw_only=True, eq=False)
class Baseline:
    """One kind of training images beside the set.

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
        on_set: the accuracies of networks of these seeds, trained on a set as on the distilled one.
        new_network: the network of a seed with its stock layers, not trained yet.
        train: real images to train on; None where there are none.
        test: real images to test on.
        name: of the network; None where it has none, and its baselines are not kept.
        kept: the accuracies of baselines that were measured before.
        protocol: of training on a set: ``"recipe"`` or ``"standard"``.
    """

    on_set: Callable[[SyntheticSet, Sequence[int]], Scores]
    new_network: Callable[[int], nn.Module]
    train: RealData | None
    test: InputBatches
    name: str | None = None
    kept: KeptBaselines = field(default=NOTHING_KEPT)
    protocol: Literal["recipe", "standard"] = "recipe"

    def shown(self, synthetic: SyntheticSet) -> int:
        """Return how many images a network sees in training on a set."""
        count = len(synthetic.labels)
        if self.protocol == "standard":
            return training_steps(count) * batch_size(count)
        images = len(synthetic.indices(0, 0)) * synthetic.copies_per_step
        return synthetic.recipe.steps * images

    def baselines(self, comparison: Comparison) -> list[Baseline]:
        """Return the baselines of a comparison; none where it has no real images."""
        synthetic, train, per_class = comparison.synthetic, self.train, comparison.per_class
        takes_classes = self.protocol == "standard" and synthetic.label_form == "weights"
        kinds = without_senseless(
            comparison.chosen(OF_NETWORKS), synthetic, train, classes_alone=takes_classes
        )
        if not kinds:
            return []
        assert train is not None
        prepare, autocast = preparation(synthetic), synthetic.recipe.autocast

        def on_few(network: nn.Module, seed: int) -> None:
            train_on_random_real(
                network, train, per_class, prepare=prepare, seed=seed, autocast=autocast
            )

        def on_all(network: nn.Module, seed: int) -> None:
            train_on_all(network, train, prepare=prepare, seed=seed, autocast=autocast)

        def difficulty_of_images() -> Tensor:
            inputs = input_batches(synthetic, train, _BATCH)
            return difficulty.of_images(
                self.new_network, train, inputs, prepare=prepare, autocast=autocast
            )

        coresets = RealCoresets(train, difficulty_of_images)

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
            **{kind: on_chosen(kind) for kind in (*RULES, *DIFFICULTY_RULES)},
        }
        counts = {kind: train.count() if kind is TrainingImages.ALL else few for kind in kinds}
        return [
            self._label_control(synthetic, kind, train)
            if kind in LABEL_CONTROLS
            else self._baseline(synthetic, kind, counts[kind], trainings[kind])
            for kind in kinds
        ]

    def _label_control(
        self, synthetic: SyntheticSet, images: TrainingImages, train: RealData
    ) -> Baseline:
        """The set with other labels or other images, trained as the set is."""

        def measure(seed: int) -> float:
            def trained() -> float:
                changed = controlled(synthetic, images, train, seed)
                return self.on_set(changed, [seed]).accuracies[0]

            training = Training(
                model=self.name,
                images=images,
                count=len(synthetic.labels),
                seed=seed,
                train=train,
                test=self.test.data,
                on_set=self.protocol,
            )
            return self.kept.accuracy(training, self.new_network(seed), synthetic, trained)

        return Baseline(images=images, measure=measure, shown=self.shown(synthetic))

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
            scores = tested.on_set(with_pixels(synthetic, pixels), seeds)
        yield TrainingImages.distilled(pixels), scores
    if isinstance(tested, NetworkTest):
        # With one initialization all networks of the distilled images are the same.
        fixed = synthetic.recipe.init == "fixed" and tested.protocol == "recipe"
        for baseline in tested.baselines(comparison):
            alike = fixed and baseline.images.pixels is not None
            trained = tuple(seeds[:1] if alike else seeds)
            yield baseline.images, Scores(tuple(map(baseline.measure, trained)), seeds=trained)
    elif kinds := comparison.chosen(OF_HEADS):
        yield from tested.controls(synthetic, comparison.per_class, seeds, kinds=kinds)
