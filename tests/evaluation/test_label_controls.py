"""`dd_plugin.evaluation.label_controls`: labels of a set told apart from its images."""

import logging

import pytest
import torch

from dd_plugin.data import DataError, RealData
from dd_plugin.evaluation import label_controls
from dd_plugin.evaluation.label_controls import (
    controlled,
    with_hard_labels,
    with_random_images,
    without_senseless,
)
from dd_plugin.evaluation.training_images import BASELINES, LABEL_CONTROLS, TrainingImages
from tests.distiller.toy import toy_dataset
from tests.hub.toy import synthetic_set


def learned_set(**options):
    synthetic = synthetic_set(**{"soft_labels": True, "class_names": tuple("abc"), **options})
    with torch.no_grad():
        synthetic.learned_labels.add_(torch.arange(12.0).view(4, 3))
    return synthetic


@pytest.fixture
def real():
    return RealData.from_dataset(toy_dataset(30))


@pytest.mark.parametrize("form", ["probabilities", "weights"])
def test_hard_labels_change_the_labels_alone(form):
    synthetic = learned_set(soft_labels=form)
    before = synthetic.targets().detach().clone()
    changed = with_hard_labels(synthetic)
    assert changed.targets().tolist() == [0, 0, 1, 1]
    assert changed.label_form is None
    assert torch.equal(changed.images(), synthetic.images())
    assert torch.equal(changed.step_sizes(), synthetic.step_sizes())
    assert torch.equal(synthetic.targets(), before)


@pytest.mark.parametrize("form", ["probabilities", "weights"])
def test_random_images_change_the_images_alone(form, real):
    synthetic = learned_set(soft_labels=form)
    synthetic.labels = torch.tensor([1, 0, 1, 0])  # in the order of groups
    images = synthetic.images().detach().clone()
    changed = with_random_images(synthetic, real, 3)
    assert torch.equal(changed.targets(), synthetic.targets())
    assert changed.label_form == form
    assert torch.equal(changed.step_sizes(), synthetic.step_sizes())
    # Each is another real image of the class in its place.
    everything, labels = next(iter(real.batches(100)))
    rows = [int((everything == one).flatten(1).all(1).nonzero()[0, 0]) for one in changed.images()]
    assert labels[rows].tolist() == [1, 0, 1, 0]
    assert len(set(rows)) == 4
    assert torch.equal(synthetic.images(), images)
    # The seed draws.
    assert torch.equal(with_random_images(synthetic, real, 3).images(), changed.images())
    assert not torch.equal(with_random_images(synthetic, real, 4).images(), changed.images())


def test_random_images_are_stored_as_small_as_the_distilled_ones(real):
    synthetic = learned_set(factor=2)
    changed = with_random_images(synthetic, real, 0)
    assert changed.parametrization.stored().shape == synthetic.parametrization.stored().shape
    assert changed.images_per_class == synthetic.images_per_class
    # Averages of four pixels, enlarged again.
    exact = with_random_images(learned_set(), real, 0).images()
    means = torch.nn.functional.avg_pool2d(exact, 2)
    torch.testing.assert_close(changed.parametrization.stored(), means)


def test_too_few_real_images_are_said(real):
    synthetic = learned_set()
    few = RealData.from_dataset(toy_dataset(3))
    with pytest.raises(DataError, match="left"):
        with_random_images(synthetic, few, 0)


def test_the_set_of_each_kind(real):
    synthetic = learned_set()
    hard, labeled = (controlled(synthetic, kind, real, 1) for kind in LABEL_CONTROLS)
    assert (hard.learned_labels, labeled.label_form) == (None, "probabilities")


@pytest.mark.parametrize(
    ("soft_labels", "classes_alone", "word"),
    [
        ("probabilities", False, None),
        ("weights", False, None),
        (False, False, "the set has no learned labels"),
        ("weights", True, "this training takes the classes in the place of the learned labels"),
    ],
)
def test_what_makes_no_sense_is_left_out_with_a_word(soft_labels, classes_alone, word, caplog):
    label_controls._say_once.cache_clear()
    synthetic = synthetic_set(soft_labels=soft_labels)
    with caplog.at_level(logging.WARNING):
        kinds = without_senseless(BASELINES, synthetic, classes_alone=classes_alone)
        again = without_senseless(BASELINES, synthetic, classes_alone=classes_alone)
    assert kinds == again
    left = [] if word is None else [*LABEL_CONTROLS]
    assert kinds == [kind for kind in BASELINES if kind not in left]
    rows = "distilled images, hard labels and of random real images, learned labels"
    assert caplog.messages == ([] if word is None else [f"no row of {rows}: {word}"])


def test_nothing_is_said_where_nothing_was_asked_for(caplog):
    label_controls._say_once.cache_clear()
    kinds = without_senseless([TrainingImages.RANDOM], synthetic_set(), classes_alone=False)
    assert (kinds, caplog.messages) == ([TrainingImages.RANDOM], [])


def test_random_images_are_left_out_where_there_are_too_few(caplog):
    label_controls._say_once.cache_clear()
    rows = toy_dataset(30)
    first = [rows["label"].index(label) for label in range(3)]
    train = RealData.from_dataset(rows.select(first))
    kinds = without_senseless(BASELINES, learned_set(), train, classes_alone=False)
    assert kinds == [kind for kind in BASELINES if kind is not TrainingImages.LABELED_RANDOM]
    assert "the set has 2 images of a class, but there are 1 real ones of" in caplog.text
