"""Images, source, settings and files, as somebody else may have written them."""

import pytest

from dd_plugin.hub.limits import DistilledFormatError
from dd_plugin.hub.record import About, FileEntry, Images, Source, checksum_in, times_smaller


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("count", 0, "`count` of the images must be a whole number"),
        ("count", True, "`count` of the images must be a whole number"),
        ("per_class", 0, "`per_class` of the images must be a number"),
        ("per_class", 10**400, "`per_class` of the images must be a number"),
        ("upsample_factor", 65, "`upsample_factor` of the images must be a whole number up to 64"),
        ("num_bytes", -1, "`num_bytes` of the images must be a whole number"),
        ("label_form", "logits", "'label_form' must be one of"),
        ("label_form", [], "'label_form' must be one of"),
    ],
)
def test_images_that_are_refused(key, value, message):
    with pytest.raises(DistilledFormatError, match=message):
        Images.from_json({"count": 4, "per_class": 2, key: value}, "images")


def test_images_in_few_words():
    images = Images.from_json({"count": 4, "per_class": 2, "upsample_factor": None}, "images")
    assert (images.times_smaller, images.soft_labels, images.label_form) == (1, False, None)


@pytest.mark.parametrize(
    ("factor", "expected"), [(None, 1), (1, 1), (2, 4), (0, 1), (True, 1), ("2", 1)]
)
def test_images_of_a_file_that_nobody_checked(factor, expected):
    assert times_smaller({"upsample_factor": factor}) == expected
    assert times_smaller({}) == 1


@pytest.mark.parametrize(
    ("licenses", "expected"), [(None, ()), ("mit", ("mit",)), (["mit", ""], ("mit", "")), ([], ())]
)
def test_licenses(licenses, expected):
    assert Source.from_json({"licenses": licenses}).licenses == expected


@pytest.mark.parametrize(("level", "expected"), [(4095, 4095), (0, None), (1 << 16, None)])
def test_white_level(level, expected):
    assert Source.from_json({"white_level": level}).white_level == expected


def test_a_white_level_is_written_where_there_is_one():
    assert "white_level" not in Source().to_json()
    assert Source(white_level=4095).to_json()["white_level"] == 4095


def test_versions_are_texts():
    versions = About.from_json({"versions": {"a": 1.5, "b": None, "c": "2"}}).versions
    assert versions == {"a": "1.5", "c": "2"}
    with pytest.raises(DistilledFormatError, match="'versions' must be an object or null"):
        About.from_json({"versions": ["a"]})


@pytest.mark.parametrize("values", [None, [], {}, {"files": []}])
def test_the_checksum_of_a_file_of_what_is_no_record(values):
    with pytest.raises(DistilledFormatError, match="must have an object 'files'"):
        checksum_in(values, "a")


def test_the_checksum_of_a_file():
    files = {"a": {"size": 1, "sha256": "x"}, "b": {"sha256": 5}, "c": 5}
    # Of a version that is not known here, too.
    record = {"schema_version": 99, "files": files}
    assert [checksum_in(record, name) for name in "abcd"] == ["x", None, None, None]
    assert FileEntry.from_json(files["a"]) == FileEntry(size=1, sha256="x")
