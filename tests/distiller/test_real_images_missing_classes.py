"""Classes of which no training image is left: distilled without them, and said so."""

import pytest

from dd_plugin.data import DataError, RealData
from dd_plugin.distiller import Distiller
from tests.distiller.toy import toy_config, toy_dataset


def without(label, **options):
    return toy_dataset(**options).filter(lambda row: row["label"] != label)


def test_a_class_that_filter_left_without_rows_is_left_out(tmp_path, caplog):
    config = toy_config(tmp_path, max_steps=1)
    distiller = Distiller(None, config, without(1), without(1, count=30, seed=1))
    assert (
        "no training images of the classes right: they are left out, and 2 classes" in caplog.text
    )
    assert distiller.synthetic.recipe.class_names == ("left", "middle")
    assert distiller.train_data.class_counts() == [20, 20]
    assert distiller.eval_data.class_counts() == [10, 10]
    # Labels are the places of the names that remain.
    labels = distiller.train_data.of_each_class(1, seed=0)[1]
    assert labels.tolist() == [0, 1]
    distiller.train()
    assert distiller.evaluate()["accuracy_mean"] >= 0


def test_test_images_of_a_class_that_is_left_out_are_an_error(tmp_path):
    with pytest.raises(DataError, match=r"not among the given ones: right; leave out the rows"):
        Distiller(None, toy_config(tmp_path, max_steps=1), without(1), toy_dataset(30, seed=1))


@pytest.mark.parametrize("max_bytes", [None, 100])
def test_images_of_one_class_are_an_error_before_the_run(tmp_path, monkeypatch, max_bytes):
    if max_bytes is not None:
        kept = RealData.from_dataset
        monkeypatch.setattr(
            RealData,
            "from_dataset",
            lambda *args, **options: kept(*args, **options, max_bytes=max_bytes),
        )
    one = toy_dataset().filter(lambda row: row["label"] == 1)
    with pytest.raises(DataError, match="at least two classes, but all 20 are of class 'right'"):
        Distiller(None, toy_config(tmp_path, max_steps=1), one, toy_dataset(30, seed=1))
