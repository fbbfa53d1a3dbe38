"""Names that are splits to `datasets`: every image is in its class and its split, in no other."""

import json

import pytest
from PIL import Image

from dd_plugin.data.real.class_folders import find_class_folders
from dd_plugin.data.real.columns import DataError, MissingSplitError
from dd_plugin.data.real.loading import load_real
from tests.data.tables import images, table


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
    "names", [("Train", "Test"), ("Training", "Testing"), ("TRAIN", "test"), ("train", "My Test")]
)
@pytest.mark.parametrize("place", [".", "archive"])
def test_splits_may_have_capital_letters(tmp_path, names, place):
    for name, counts in zip(names, ((3, 4), (2, 5)), strict=True):
        draw(tmp_path / place / name, boat=counts[0], plane=counts[1])
    draw(tmp_path / place, extra=1)
    for split, counts in (("train", [3, 4]), ("test", [2, 5])):
        real = load_real(tmp_path, split)
        assert (real.class_names, real.class_counts()) == (["boat", "plane"], counts)
    with pytest.raises(MissingSplitError):
        load_real(tmp_path, "validation")


def test_a_class_may_be_called_like_a_split_with_a_capital_letter(tmp_path):
    real = load_real(draw(tmp_path, Boat=2, Train=3), "train")
    assert (real.class_names, real.class_counts()) == (["Boat", "Train"], [2, 3])


def test_capital_letters_of_tables(tmp_path):
    # Beside a folder of images each, a table that describes them.
    for split, count in (("Train", 2), ("Test", 4)):
        draw(tmp_path / "tables", **{split: count})
        lines = [json.dumps({"file_name": f"{i}.png", "label": "ab"[i % 2]}) for i in range(count)]
        (tmp_path / "tables" / split / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    assert len(load_real(tmp_path / "tables", "train")) == 2
    assert len(load_real(tmp_path / "tables", "test")) == 4
    # Parquet files, alone and in folders.
    for name in ("flat/Train.parquet", "flat/Test-0.parquet", "deep/Train/0.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        table(images(3 if "Test" in name else 6)).to_parquet(tmp_path / name)
    assert len(load_real(tmp_path / "flat", "train")) == 6
    assert len(load_real(tmp_path / "flat", "test")) == 3
    assert len(load_real(tmp_path / "deep", "train")) == 6
    with pytest.raises(MissingSplitError):
        load_real(tmp_path / "deep", "test")


def test_bare_images_in_capital_splits_are_no_classes(tmp_path):
    with pytest.raises(DataError, match="has no label"):
        load_real(draw(tmp_path, Train=2, Test=2), "train")


@pytest.mark.parametrize("places", [(".",), ("train", "test"), ("archive/train", "archive/test")])
def test_names_of_images_with_a_table_are_no_splits(tmp_path, places):
    names = ["1.png", "train_4.png", "test-5.png", "val 6.png"]
    for place in places:
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        for row, name in enumerate(names):
            Image.new("L", (4, 4), row).save(tmp_path / place / name)
        lines = [json.dumps({"file_name": name, "label": "ab"[name > "2"]}) for name in names]
        (tmp_path / place / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    for place in places:
        split = "train" if place == "." else place.rpartition("/")[2]
        assert load_real(tmp_path, split).class_counts() == [1, 3]


def test_other_folders_are_left_to_datasets(tmp_path):
    # Splits without classes, described by a table each.
    for split in ("train", "test"):
        draw(tmp_path / "tables", **{split: 2})
        lines = [json.dumps({"file_name": f"{i}.png", "label": "ab"[i]}) for i in range(2)]
        (tmp_path / "tables" / split / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    assert find_class_folders(tmp_path / "tables") is None
    assert load_real(tmp_path / "tables", "test").class_names == ["a", "b"]
    # Images that belong to no class at all.
    draw(tmp_path / "bare", train=2, test=2)
    with pytest.raises(DataError, match="has no label"):
        load_real(tmp_path / "bare", "train")
