"""`dd_plugin.hub.using.real_images`: images to test on, of the kind of a set's own."""

import pytest

from dd_plugin.data import DataError, RealData
from dd_plugin.hub.record import Record
from dd_plugin.hub.using import real_images as module
from tests.distiller.toy import toy_dataset
from tests.hub.records import CLASSES, a_record


@pytest.mark.parametrize(
    ("dataset", "split", "expected"),
    [
        (None, None, ("someone/pets", "validation")),
        (None, "train", ("someone/pets", "train")),
        ("other/pets", None, ("other/pets", "validation")),
        ([], None, ([], None)),
    ],
    ids=str,
)
def test_the_record_says_which_images(monkeypatch, dataset, split, expected):
    monkeypatch.setattr(module, "load_real", lambda *args, **options: (args, options))
    record = a_record()
    record["protocol"]["split"] = "validation"
    record["source"]["white_level"] = 4095
    found, options = module.real_images(Record.from_json(record), dataset, split, "cpu")
    assert found == expected
    assert options == {
        "image_size": (8, 8),
        "channels": 3,
        "class_names": list(CLASSES),
        "device": "cpu",
        "white_level": 4095,
    }


def test_real_images_of_another_kind_are_refused(distilled):
    other = RealData.from_dataset(toy_dataset(30, 1, size=16))
    with pytest.raises(DataError, match="the real images are"):
        distilled.evaluate(dataset=other)
