"""What a comparison trains on, with which seeds, and in which order."""

import pytest
import torch
from torch import nn

from dd_plugin.data import RealData
from dd_plugin.evaluation import Scores
from dd_plugin.evaluation.comparison import Comparison, NetworkTest, compare
from dd_plugin.evaluation.kept_baselines import KeptBaselines
from dd_plugin.evaluation.preparation import input_batches
from dd_plugin.evaluation.training_images import TrainingImages, eight_bit_images
from dd_plugin.seeds import seeded_generators
from tests.distiller.toy import toy_dataset
from tests.hub.toy import synthetic_set

SEEDS = (3, 5)


@pytest.fixture
def trained(monkeypatch):
    """The trainings on real images, each as its kind, images per class and seed."""
    calls = []

    def on_few(network, data, per_class, prepare, seed, autocast):
        calls.append(("few", per_class, seed))

    def on_all(network, data, prepare, seed, autocast):
        calls.append(("all", None, seed))

    monkeypatch.setattr("dd_plugin.evaluation.comparison.train_on_random_real", on_few)

    def on_chosen(network, images, labels, prepare, seed, autocast):
        calls.append(("chosen", tuple(labels.tolist()), seed))

    monkeypatch.setattr("dd_plugin.evaluation.comparison.train_on_all", on_all)
    monkeypatch.setattr("dd_plugin.evaluation.comparison.train_on_chosen_real", on_chosen)
    return calls


def linear(seed):
    with seeded_generators(seed):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


def network_test(synthetic, asked, **options):
    data = RealData.from_dataset(toy_dataset(30, seed=1))

    def on_set(trained_on, seeds):
        asked.append((trained_on, tuple(seeds)))
        return Scores((0.75, 0.25)[: len(seeds)])

    return NetworkTest(
        on_set=on_set,
        new_network=linear,
        train=data,
        test=input_batches(synthetic, data, 10),
        **options,
    )


@pytest.mark.parametrize("full_data", [True, False])
def test_distilled_images_come_first_and_all_real_ones_last(trained, full_data):
    # Four images at a quarter of the pixels: less than one real image of each class.
    synthetic, asked = synthetic_set(factor=2), []
    comparison = Comparison(synthetic=synthetic, seeds=SEEDS, full_data=full_data)
    rows = list(compare(comparison, network_test(synthetic, asked)))
    kinds = [TrainingImages.DISTILLED, TrainingImages.EIGHT_BIT, TrainingImages.RANDOM]
    assert [kind for kind, _ in rows] == kinds + [TrainingImages.ALL] * full_data
    assert [seeds for _, seeds in asked] == [SEEDS, SEEDS]
    exact, png = (one.images() for one, _ in asked)
    assert torch.equal(exact, synthetic.images())
    assert torch.equal(png, eight_bit_images(exact))
    assert rows[0][1] == Scores((0.75, 0.25))
    on_all = [("all", None, seed) for seed in SEEDS]
    assert trained == [("few", 1, seed) for seed in SEEDS] + on_all * full_data
    assert all(len(scores.accuracies) == 2 for _, scores in rows)


def test_nothing_is_trained_on_real_images_without_baselines(trained):
    synthetic, asked = synthetic_set(), []
    comparison = Comparison(synthetic=synthetic, seeds=SEEDS, pixels=("exact",), baselines=False)
    rows = list(compare(comparison, network_test(synthetic, asked)))
    assert [kind for kind, _ in rows] == [TrainingImages.DISTILLED]
    assert ([seeds for _, seeds in asked], trained) == ([SEEDS], [])


def test_a_baseline_says_how_much_work_it_is(trained):
    synthetic = synthetic_set()
    comparison = Comparison(synthetic=synthetic, seeds=SEEDS, pixels=())
    few, everything = network_test(synthetic, []).baselines(comparison)
    # Two images of each of two classes, and the thirty of the data, 200 times each.
    assert (few.images, few.shown) == (TrainingImages.RANDOM, 200 * 4)
    assert (everything.images, everything.shown) == (TrainingImages.ALL, 200 * 30)
    assert [0 <= everything.measure(seed) <= 1 for seed in SEEDS] == [True, True]
    assert trained == [("all", None, seed) for seed in SEEDS]


def test_an_accuracy_that_is_kept_is_not_measured(trained, tmp_path):
    synthetic = synthetic_set()
    comparison = Comparison(synthetic=synthetic, seeds=SEEDS, pixels=())
    options = {"name": "a", "kept": KeptBaselines.in_folder(tmp_path)}
    first, again = (
        list(compare(comparison, network_test(synthetic, [], **options))) for _ in range(2)
    )
    assert first == again
    assert len(trained) == 2 * len(SEEDS)


@pytest.mark.parametrize(
    ("kinds", "baselines", "full_data", "expected"),
    [
        (None, True, True, [TrainingImages.RANDOM, TrainingImages.ALL]),
        (None, True, False, [TrainingImages.RANDOM]),
        (None, False, True, []),
        ((), True, True, []),
        (
            (TrainingImages.K_CENTER, TrainingImages.CENTROID),
            True,
            True,
            [TrainingImages.CENTROID, TrainingImages.K_CENTER],
        ),
        ((TrainingImages.ALL, TrainingImages.HERDING), True, False, [TrainingImages.HERDING]),
        ((TrainingImages.ALL,), False, True, []),
    ],
)
def test_the_kinds_of_real_images(trained, kinds, baselines, full_data, expected):
    synthetic = synthetic_set()
    options = {"kinds": kinds, "baselines": baselines, "full_data": full_data}
    comparison = Comparison(synthetic=synthetic, seeds=SEEDS, pixels=(), **options)
    rows = list(compare(comparison, network_test(synthetic, [])))
    assert [kind for kind, _ in rows] == expected


def test_chosen_images_are_the_same_for_every_network(trained):
    synthetic = synthetic_set()
    kinds = (TrainingImages.HERDING,)
    comparison = Comparison(synthetic=synthetic, seeds=SEEDS, pixels=(), kinds=kinds)
    (baseline,) = network_test(synthetic, []).baselines(comparison)
    assert baseline.shown == 200 * 4  # as random ones
    for seed in SEEDS:
        baseline.measure(seed)
    assert trained == [("chosen", (0, 0, 1, 1, 2, 2), seed) for seed in SEEDS]


def test_the_hardest_images_are_those_of_networks_of_the_same_architecture(trained, monkeypatch):
    asked = []

    def of_images(new_network, data, inputs, prepare, autocast):
        asked.append(new_network)
        assert inputs.data is data
        return torch.arange(len(data), dtype=torch.float64)

    monkeypatch.setattr("dd_plugin.evaluation.difficulty.of_images", of_images)
    synthetic = synthetic_set()
    kinds = (TrainingImages.HARDEST, TrainingImages.EASIEST)
    comparison = Comparison(synthetic=synthetic, seeds=SEEDS, pixels=(), kinds=kinds)
    rows = list(compare(comparison, network_test(synthetic, [])))
    assert [kind for kind, _ in rows] == [TrainingImages.EASIEST, TrainingImages.HARDEST]
    # Two images of each class, for every network the same, chosen once for both rows.
    assert trained == [("chosen", (0, 0, 1, 1, 2, 2), seed) for seed in SEEDS] * 2
    assert asked == [linear]


CONTROLS = [TrainingImages.HARD_LABELS, TrainingImages.LABELED_RANDOM]


def learned_set(**options):
    return synthetic_set(class_names=tuple("abc"), **{"soft_labels": True, **options})


def label_rows(synthetic, asked, **options):
    comparison = Comparison(synthetic=synthetic, seeds=SEEDS, pixels=(), kinds=CONTROLS)
    return list(compare(comparison, network_test(synthetic, asked, **options)))


def test_labels_are_told_apart_by_sets_that_are_trained_as_the_set(trained):
    synthetic, asked = learned_set(), []
    rows = label_rows(synthetic, asked)
    assert [kind for kind, _ in rows] == CONTROLS
    assert all(scores == Scores((0.75, 0.75), seeds=SEEDS) for _, scores in rows)
    assert [seeds for _, seeds in asked] == [(seed,) for _ in CONTROLS for seed in SEEDS]
    hard, _, first, second = (one for one, _ in asked)
    assert torch.equal(hard.targets(), synthetic.labels)
    assert torch.equal(hard.images(), synthetic.images())
    assert torch.equal(first.targets(), synthetic.targets())
    assert not torch.equal(first.images(), second.images())  # each network draws its own
    assert not trained


def test_of_one_initialization_hard_labels_are_trained_on_once(trained):
    asked = []
    rows = dict(label_rows(learned_set(init="fixed"), asked))
    assert [len(scores.accuracies) for scores in rows.values()] == [1, 2]


@pytest.mark.parametrize(
    ("soft_labels", "protocol", "expected"),
    [
        (False, "recipe", []),
        ("weights", "recipe", CONTROLS),
        ("probabilities", "standard", CONTROLS),
        # Ordinary training takes the classes: both rows would be those that are there.
        ("weights", "standard", []),
    ],
)
def test_rows_that_would_be_others_are_left_out(trained, soft_labels, protocol, expected):
    rows = label_rows(learned_set(soft_labels=soft_labels), [], protocol=protocol)
    assert [kind for kind, _ in rows] == expected


def test_accuracies_of_label_controls_are_kept_for_this_set(trained, tmp_path):
    options, asked = {"name": "a", "kept": KeptBaselines.in_folder(tmp_path)}, []
    first, again = (label_rows(learned_set(), asked, **options) for _ in range(2))
    assert first == again
    assert len(asked) == 2 * len(SEEDS)
    other = learned_set()
    with torch.no_grad():
        other.learned_labels[0, 0] += 1
    label_rows(other, asked, **options)
    assert len(asked) == 4 * len(SEEDS)


def test_the_work_of_a_label_control_is_that_of_the_set(trained):
    synthetic = learned_set()
    comparison = Comparison(synthetic=synthetic, seeds=SEEDS, pixels=(), kinds=CONTROLS)
    by_recipe = network_test(synthetic, []).baselines(comparison)
    as_usual = network_test(synthetic, [], protocol="standard").baselines(comparison)
    # Three steps of four images, and 200 of four.
    assert [baseline.shown for baseline in by_recipe] == [12, 12]
    assert [baseline.shown for baseline in as_usual] == [800, 800]
