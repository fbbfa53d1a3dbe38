"""A set beside what it has to be compared with: which rows there are, of which images."""

import pytest

from dd_plugin import DistilledDataset
from dd_plugin.data import RealData
from dd_plugin.hub.comparison import Request, compare, merge_rows, rows_table
from dd_plugin.hub.record import Evaluation
from tests.distiller.toy import toy_dataset
from tests.evaluation.short import shorten
from tests.hub.sets import toy_set


@pytest.fixture(scope="module")
def upsampled(tmp_path_factory):
    return DistilledDataset.from_pretrained(toy_set(tmp_path_factory.mktemp("set"), factor=2))


def real(count, seed=0):
    return RealData.from_dataset(toy_dataset(count, seed))


def test_real_images_have_the_storage_of_the_set(upsampled, monkeypatch):
    shorten(monkeypatch, 5)
    # Twelve images at a quarter of the pixels: one real image of each class.
    assert (len(upsampled), upsampled.images_per_class) == (12, 1)
    drawn, told = [], []
    train = real(60)
    of_each_class = train.of_each_class
    train.of_each_class = lambda count, seed: drawn.append(count) or of_each_class(count, seed)
    request = Request(models=["timm/dd_convnet"], test=real(30, 1), train=train, networks=2)
    rows = compare(upsampled, request, told.append)
    assert told == rows
    assert set(drawn) == {1}
    assert [(row.trained_on, row.protocol, row.pixels) for row in rows] == [
        ("distilled images", "recipe", "exact"),
        ("distilled images", "recipe", "png"),
        ("random real images", "standard", None),
        ("all real images", "standard", None),
    ]
    assert rows[0].accuracies == tuple(upsampled.results["distilled"]["accuracies"])
    assert [len(row.accuracies) for row in rows] == [2, 2, 2, 2]


def test_without_training_images_there_is_nothing_beside_the_set(upsampled):
    request = Request(models=["timm/dd_convnet"], test=real(30, 1), train=None, networks=1)
    rows = compare(upsampled, request)
    assert {row.trained_on for row in rows} == {"distilled images"}


def a_row(model, mean):
    return Evaluation(model=model, trained_on="b", mean=mean, accuracies=(mean,))


def test_rows_that_are_measured_again_take_the_place_of_the_old_ones():
    merged = merge_rows([a_row("x", 0.1), a_row("y", 0.2)], [a_row("x", 0.3)])
    assert [(row.model, row.mean) for row in merged] == [("y", 0.2), ("x", 0.3)]


def test_the_table_has_a_line_for_each_row():
    lines = rows_table([a_row("x", 0.125), a_row("y", 0.5)]).splitlines()
    assert [line for line in lines if "12.5" in line and "x" in line]
    assert [line for line in lines if "50.0" in line and "y" in line]
