"""Classes called like splits: every image is in its class and its split, and in no other."""

import json

import pytest
from PIL import Image

from dd_plugin.data.columns import DataError, MissingSplitError
from dd_plugin.data.image_folders import explicit_splits
from dd_plugin.data.loading import load_real


def draw(folder, **counts):
    """Folders of so many images each, the i-th of brightness i."""
    for name, count in counts.items():
        place = folder / name.replace("__", "/").replace("_", " ")
        place.mkdir(parents=True)
        for i in range(count):
            Image.new("L", (4, 4), i).save(place / f"{i}.png")
    return folder


@pytest.mark.parametrize(
    "counts",
    [
        {"boat": 2, "train": 3},
        {"boat": 2, "test": 3},
        {"bottle": 4, "test_tube": 2, "valid": 3},
        {"cat": 1, "boat_7": 2, "dev": 3},
    ],
    ids=str,
)
def test_a_class_may_be_called_like_a_split(tmp_path, counts):
    real = load_real(draw(tmp_path, **counts), "train")
    expected = {name.replace("_", " "): count for name, count in sorted(counts.items())}
    assert dict(zip(real.class_names, real.class_counts(), strict=True)) == expected
    assert not load_real(tmp_path, "train", streaming=True, buffer_size=2).in_memory
    with pytest.raises(MissingSplitError):
        load_real(tmp_path, "test")


def test_a_class_called_like_a_split_in_folders_of_splits(tmp_path):
    counts = {"train__boat": 3, "train__train": 4, "val__boat": 2, "val__train": 5}
    draw(tmp_path / "some [new] data", **counts)
    for split, expected in (("train", [3, 4]), ("validation", [2, 5])):
        real = load_real(tmp_path / "some [new] data", split)
        assert (real.class_names, real.class_counts()) == (["boat", "train"], expected)


@pytest.mark.parametrize(
    "counts",
    [
        {"boat": 2, "plane": 2},
        {"train__boat": 2, "train__plane": 2, "test__boat": 1, "test__plane": 1},
        {"boat": 2, "trainer": 2},
    ],
    ids=str,
)
def test_where_no_name_misleads_nothing_is_changed(tmp_path, counts):
    assert explicit_splits(draw(tmp_path, **counts)) is None
    assert load_real(tmp_path, "train").class_counts() == [2, 2]


def test_other_folders_are_left_to_datasets(tmp_path):
    # Splits without classes, described by a table each.
    for split in ("train", "test"):
        draw(tmp_path / "tables", **{split: 2})
        lines = [json.dumps({"file_name": f"{i}.png", "label": "ab"[i]}) for i in range(2)]
        (tmp_path / "tables" / split / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    assert explicit_splits(tmp_path / "tables") is None
    assert load_real(tmp_path / "tables", "test").class_names == ["a", "b"]
    # Images that belong to no class at all.
    assert explicit_splits(draw(tmp_path / "bare", train=2, test=2)) is None
    with pytest.raises(DataError, match="has no label"):
        load_real(tmp_path / "bare", "train")
