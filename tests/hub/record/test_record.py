"""The record as a whole: what was written is read, and written again to the letter."""

import json
from dataclasses import replace

import pytest

from dd_plugin.hub.limits import DistilledFormatError
from dd_plugin.hub.reading import read_record
from dd_plugin.hub.record import Evaluation, Images, Record, Result
from tests.hub.records import a_record, bare_record
from tests.hub.toy import write_toy


def test_what_is_written_is_the_record(tmp_path):
    write_toy(tmp_path)
    written = (tmp_path / "recipe.json").read_text()
    record = read_record(tmp_path)
    assert json.dumps(record.to_json(), indent=1) + "\n" == written
    # And from the fields alone, without what the file had.
    assert json.dumps(replace(record).to_json(), indent=1) + "\n" == written


def test_keys_of_a_newer_version_survive():
    values = {**a_record(), "mirrors": ["a"]}
    values["about"]["note"], values["images"]["palette"] = "kept", {"a": 1}
    values["results"]["odd"] = 0.5
    record = Record.from_json(values)
    assert list(record.results) == ["distilled", "random real", "full data"]
    row = Evaluation(model="timm/x", accuracies=(0.5,))
    again = record.with_evaluations([*record.evaluations, row])
    expected = {**values, "evaluations": [*values["evaluations"], row.to_json()]}
    assert json.dumps(again.to_json()) == json.dumps(expected)
    assert again.evaluations == (*record.evaluations, row)


def test_rows_are_put_into_a_record_that_nobody_has_written_yet():
    record = replace(Record.from_json(a_record()), recipe="not checked again")
    row = Evaluation(model="timm/x")
    again = record.with_evaluations([row])
    assert (again.evaluations, again.recipe) == ((row,), "not checked again")


def test_what_is_not_said_is_empty():
    record = Record.from_json(bare_record())
    assert record.to_json() == bare_record()
    assert record.distilled == Result.from_json({})
    assert (record.source.licenses, record.evaluations, record.about.versions) == ((), (), {})
    assert record.about.config.is_empty
    assert record.about.network.is_empty


@pytest.mark.parametrize("missing", ["recipe", "transform", "files"])
@pytest.mark.parametrize("value", [None, [], "text", ...])
def test_what_there_has_to_be(missing, value):
    values = a_record()
    if value is ...:
        del values[missing]
    else:
        values[missing] = value
    with pytest.raises(DistilledFormatError, match=f"must have an object '{missing}'"):
        Record.from_json(values)


@pytest.mark.parametrize("part", ["images", "source", "results", "protocol", "about"])
def test_parts_are_objects(part):
    with pytest.raises(DistilledFormatError, match=f"'{part}' must be an object"):
        Record.from_json({**a_record(), part: None})


@pytest.mark.parametrize("values", [None, [], {}, "text", {"recipe": {}}])
def test_what_is_no_record(values):
    with pytest.raises(DistilledFormatError, match="it has no schema_version"):
        Record.from_json(values)


def test_the_images_are_counted():
    images = Images(count=4, per_class=2)
    images.check(4)
    with pytest.raises(DistilledFormatError, match="`count` of the images must be 5, got 4"):
        images.check(5)
    with pytest.raises(DistilledFormatError, match=r"must be from 0 to 4, got 4\.5"):
        replace(images, per_class=4.5).check(4)
    small = replace(images, count=24, per_class=8, upsample_factor=2)
    assert (small.times_smaller, small.stored_count, small.stored_per_class) == (4, 6, 2)


def test_sets_for_heads():
    record = Record.from_json(a_record())
    assert not record.is_for_heads
    assert not record.has_random_weights
    about = replace(
        record.about, config=replace(record.about.config, objective="gradient_matching")
    )
    assert not replace(record, about=about).matches_gradients
