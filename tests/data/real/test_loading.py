"""Real data by its name: folders of all kinds, the digits, and what cannot be loaded."""

import datasets
import pytest
from datasets import DatasetDict, load_dataset
from PIL import Image as PILImage

from dd_plugin.data.real.columns import DataError, MissingSplitError
from dd_plugin.data.real.loading import load_real
from tests.data.tables import NAMES, images, table


def test_load_folder_of_parquet_files(tmp_path):
    table(images(9)).to_parquet(tmp_path / "train.parquet")
    table(images(6)).to_parquet(tmp_path / "test.parquet")
    for place in (tmp_path, str(tmp_path)):
        real = load_real(place, "train")
        assert (len(real), real.class_names) == (9, NAMES)
    assert len(load_real(tmp_path, "test")) == 6
    assert len(load_real(tmp_path, "train[:4]")) == 4
    assert len(load_real(tmp_path / "test.parquet")) == 6
    streamed = load_real(tmp_path, "train", streaming=True, buffer_size=4)
    assert not streamed.in_memory
    with pytest.raises(DataError, match="`split` must say which part"):
        load_real(tmp_path)
    with pytest.raises(DataError, match="split 'dev', could not be read"):
        load_real(tmp_path, "dev")


def test_load_folder_of_images(tmp_path):
    for row, each in enumerate(images(6)):
        folder = tmp_path / "data" / NAMES[row % 3]
        folder.mkdir(parents=True, exist_ok=True)
        PILImage.fromarray(each).save(folder / f"{row}.png")
    real = load_real(tmp_path / "data", "train")
    assert (len(real), real.class_names, real.class_counts()) == (6, NAMES, [2, 2, 2])
    assert not load_real(tmp_path / "data", streaming=True, buffer_size=2).in_memory
    (tmp_path / "data" / "bee" / "1.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"row \d: the image .*bee.1\.png cannot.*replace the file"):
        load_real(tmp_path / "data")


@pytest.mark.parametrize("places", [("", "", ""), ("bee", "bee"), ("bee", "cat", "")], ids=str)
def test_images_that_are_not_sorted_into_classes(tmp_path, places):
    for row, (each, place) in enumerate(zip(images(3), places, strict=False)):
        (tmp_path / "data" / place).mkdir(parents=True, exist_ok=True)
        PILImage.fromarray(each).save(tmp_path / "data" / place / f"{row}.png")
    with pytest.raises(DataError, match="at least two folders, one per class"):
        load_real(tmp_path / "data", "train")


def test_load_what_save_to_disk_wrote(tmp_path):
    DatasetDict(train=table(images(9)), test=table(images(6))).save_to_disk(tmp_path / "both")
    table(images(5)).save_to_disk(tmp_path / "one")
    assert len(load_real(tmp_path / "both", "test")) == 6
    assert len(load_real(tmp_path / "one")) == 5
    # Without a name it is the images to learn from, and those only.
    assert len(load_real(tmp_path / "one", "train")) == 5
    with pytest.raises(MissingSplitError, match=r"no split 'test'.* a single split .*'train'"):
        load_real(tmp_path / "one", "test")
    for file in (tmp_path / "one").glob("*.arrow"):
        file.write_bytes(b"broken")
    with pytest.raises(DataError, match="could not be read"):
        load_real(tmp_path / "one")


def test_a_single_split_on_disk_is_known_by_its_name(tmp_path):
    table(images(9)).to_parquet(tmp_path / "data.parquet")
    for split in ("train[:4]", "train"):
        files = {"train": str(tmp_path / "data.parquet")}
        loaded = load_dataset(
            "parquet", data_files=files, split=split, cache_dir=str(tmp_path / "cache")
        )
        loaded.save_to_disk(tmp_path / split)
    assert len(load_real(tmp_path / "train[:4]", "train")) == 4
    assert len(load_real(tmp_path / "train[:4]", "train[:4]")) == 4
    for split in ("test", "train[4:]", "tr"):
        with pytest.raises(MissingSplitError, match=r"single split already, 'train\[:4\]'"):
            load_real(tmp_path / "train[:4]", split)
    with pytest.raises(MissingSplitError, match=r"single split already, 'train'"):
        load_real(tmp_path / "train", "train[:4]")


def test_load_digits_and_objects():
    pytest.importorskip("sklearn", reason="the `demo` extra is not installed")
    real = load_real("digits", "validation", image_size=16)
    assert (real.shape, real.num_classes) == ((1, 16, 16), 10)
    assert len(load_real(table(images()))) == 30


def test_what_cannot_be_loaded(tmp_path):
    with pytest.raises(DataError, match="needs a name"):
        load_real("")
    with pytest.raises(DataError, match=r"there is no folder './nowhere'"):
        load_real("./nowhere")
    with pytest.raises(DataError, match=r"there is no folder 'not/here/at all'"):
        load_real("not/here/at all")
    with pytest.raises(
        DataError, match=r"data set 'nobody/nothing' could not be loaded: .*'digits'"
    ):
        load_real("nobody/nothing")
    with pytest.raises(DataError, match="could not be read"):
        load_real(tmp_path)
    (tmp_path / "train.parquet").write_bytes(b"PAR1 broken PAR1")
    with pytest.raises(DataError, match="could not be read"):
        load_real(tmp_path)


def test_only_names_that_others_know_are_public(tmp_path, monkeypatch):
    both = DatasetDict(train=table(images(9)))
    for name in ("ada/pets", "pets", "hf://buckets/ada/pets"):
        monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: both)
        assert load_real(name, "train").public_name == (None if "://" in name else name)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    both.save_to_disk("ada/saved")
    table(images(9)).to_parquet("ada/pets.parquet")
    (tmp_path / "ada" / "tables").mkdir()
    table(images(9)).to_parquet("ada/tables/train.parquet")
    for row, each in enumerate(images(6)):
        (tmp_path / "ada" / "files" / NAMES[row % 3]).mkdir(parents=True, exist_ok=True)
        PILImage.fromarray(each).save(f"ada/files/{NAMES[row % 3]}/{row}.png")
    for name in ("ada/saved", "ada/pets.parquet", "ada/tables", "ada/files"):
        assert load_real(name, "train").public_name is None
    assert load_real(both, "train").public_name is None
    pytest.importorskip("sklearn", reason="the `demo` extra is not installed")
    assert load_real("digits", "train").public_name == "digits"
