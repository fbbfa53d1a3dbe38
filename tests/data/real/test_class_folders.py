"""Class folders: the classes, files and labels of torchvision's `ImageFolder`, on any tree."""

import os
import tempfile
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from dd_plugin.data.real.class_folders import find_class_folders, take_split
from dd_plugin.data.real.columns import DataError, MissingSplitError
from dd_plugin.data.real.image_folders import split_of
from dd_plugin.data.real.loading import load_real
from tests.data.real.folders import counts_of, draw

torchvision = pytest.importorskip("torchvision.datasets", reason="torchvision does not import")


# --- random trees -------------------------------------------------------------------------------

FILES = [
    "1.png", "2.PNG", "train_4.png", "test.JPG", "val-2.jpeg", "dev 1.png", "training.png",
    "eval.tar.png", "été.png", "IMG [1].Png", "evaluation", "notes.txt", ".hidden.png", "._1.png",
    "Thumbs.db", "labels.csv", "x.png.txt", "metadata.json",
]  # fmt: skip
FOLDERS = [
    "train", "test", "val", "dev", "Train", "TEST", "test tube", "boat 7", "evaluation", "bus",
    "cat", "Zebra", "été", "猫", "a.png", "data", "__background__", "[x]", ".git", "images",
]  # fmt: skip
SPLITS = {
    "train": ["train", "Training", "seg_train", "my train"],
    "validation": ["val", "VALID", "dev-1"],
    "test": ["test", "Test", "evaluation"],
}

files = st.lists(st.sampled_from(FILES), max_size=4, unique=True)
trees = st.recursive(
    st.fixed_dictionaries({"files": files, "folders": st.just({})}),
    lambda inner: st.fixed_dictionaries(
        {
            "files": files,
            "folders": st.dictionaries(st.sampled_from(FOLDERS), inner, max_size=3),
        }
    ),
    max_leaves=4,
)
classes = st.dictionaries(st.sampled_from(FOLDERS), st.tuples(trees, st.booleans()), max_size=6)


def build(root, tree):
    root.mkdir(parents=True, exist_ok=True)
    for name in tree["files"]:
        (root / name).write_bytes(b"")
    for name, inner in tree["folders"].items():
        if not (root / name).exists():
            build(root / name, inner)


def build_classes(root, elsewhere, named):
    """Class folders, some of them links to folders that are elsewhere."""
    root.mkdir(parents=True)
    (root / "README.md").write_text("notes")
    for number, (name, (tree, is_link)) in enumerate(named.items()):
        build(elsewhere / str(number) if is_link else root / name, tree)
        if is_link:
            (root / name).symlink_to(elsewhere / str(number), target_is_directory=True)


def as_torchvision(root):
    """(path, class) as `ImageFolder` has them, without hidden files and folders."""
    try:
        found = torchvision.ImageFolder(str(root), allow_empty=True)
    except FileNotFoundError:
        return []
    return [
        (path, found.classes[label])
        for path, label in found.samples
        if not any(part.startswith(".") for part in Path(path).relative_to(root).parts)
    ]


def as_here(found):
    return [(path, found.classes[label]) for path, label in found]


def folders_below(root, name):
    """Names of all folders with images below a class."""
    return {
        part
        for path, _ in as_torchvision(root / name)
        for part in Path(path).relative_to(root / name).parts[:-1]
    }


@settings(max_examples=60, deadline=None)
@given(classes)
def test_random_class_folders(named):
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "some test data" / "root"
        build_classes(root, Path(place) / "else", named)
        expected = as_torchvision(root)
        there = {name for _, name in expected}
        # Fewer than two classes are for the next test; and the top may be splits.
        assume(len(there) > 1 and not all(map(split_of, there)))
        # Neither do folders called like different splits hold folders of one name.
        below = {(split_of(name), inner) for name in there for inner in folders_below(root, name)}
        shared = Counter(inner for split, inner in below if split)
        assume(not shared or max(shared.values()) == 1)
        splits = find_class_folders(root)
        assert list(splits) == ["train"]
        assert as_here(splits["train"]) == expected
        assert splits["train"].classes == sorted(there)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_random_split_folders(data):
    used = data.draw(st.lists(st.sampled_from(sorted(SPLITS)), min_size=1, unique=True))
    with tempfile.TemporaryDirectory() as place:
        top = Path(place) / "top"
        root = top / data.draw(st.sampled_from([".", "archive", "my data/images"]))
        expected = {}
        for split in used:
            name = data.draw(st.sampled_from(SPLITS[split]))
            build_classes(root / name, Path(place) / split, data.draw(classes))
            draw(root / name, "bus/only.png", "train/test_2.png")
            expected[split] = as_torchvision(root / name)
        # What is beside the splits is not in them.
        (root / "notes").mkdir()
        (root / "__MACOSX").mkdir()
        (root / "__MACOSX" / "._train.png").write_bytes(b"")
        splits = find_class_folders(top)
        assert {split: as_here(files) for split, files in splits.items()} == expected


# --- trees that are worth a name ----------------------------------------------------------------


def test_an_empty_class_folder_beside_a_class_called_like_a_split(tmp_path):
    # The classes of `train` are bus and train, three each; van has no images.
    for split, count in (("train", 3), ("validation", 1)):
        draw(tmp_path, *(f"{split}/{c}/{i}.png" for c in ("bus", "train") for i in range(count)))
    (tmp_path / "train" / "van").mkdir()
    (tmp_path / "train" / "vans" / "notes").mkdir(parents=True)
    (tmp_path / "train" / "vans" / "notes" / "a.txt").write_text("")
    assert counts_of(load_real(tmp_path, "train")) == {"bus": 3, "train": 3}
    assert counts_of(load_real(tmp_path, "validation")) == {"bus": 1, "train": 1}


@pytest.mark.parametrize("streaming", [False, True])
def test_split_words_in_file_names(tmp_path, streaming):
    names = ["IMG_1.png", "train_4.png", "test.png", "val-1.png", "evaluation 2.PNG", "dev.x.png"]
    draw(tmp_path, *(f"{c}/{name}" for c in ("cat", "dog") for name in names))
    real = load_real(tmp_path, "train", streaming=streaming)
    assert counts_of(real) == {"cat": 6, "dog": 6}
    with pytest.raises(MissingSplitError, match="no split 'test'; there are 'train'"):
        load_real(tmp_path, "test")


def test_an_image_beside_the_class_folders_is_an_error(tmp_path):
    draw(tmp_path, "train/cat/1.png", "train/dog/1.png", "train/b.png", "train/a.png")
    draw(tmp_path, "test/cat/1.png", "test/dog/1.png")
    with pytest.raises(DataError, match=r"a.png' and 1 more lie beside the class folders cat, dog"):
        load_real(tmp_path, "train")
    assert counts_of(load_real(tmp_path, "test")) == {"cat": 1, "dog": 1}


def test_folders_of_splits_without_classes(tmp_path):
    draw(tmp_path / "flat", "train/1.png", "test/2.png")
    with pytest.raises(
        DataError, match=r"no labels: .* test, train .*if these are the classes, mo"
    ):
        load_real(tmp_path / "flat", "train")
    # As the advice says.
    draw(tmp_path / "moved", "train/train/1.png", "train/test/2.png")
    assert counts_of(load_real(tmp_path / "moved")) == {"test": 1, "train": 1}
    # Classes that are all called like one split are no splits; and test images without labels are
    # no reason not to train.
    draw(tmp_path / "tubes", "test tube/1.png", "test strip/2.png")
    assert counts_of(load_real(tmp_path / "tubes", "train")) == {"test strip": 1, "test tube": 1}
    draw(tmp_path / "contest", "train/cat/1.png", "train/dog/1.png", "test/1.png", "test/2.png")
    assert counts_of(load_real(tmp_path / "contest", "train")) == {"cat": 1, "dog": 1}
    with pytest.raises(MissingSplitError, match=r"'test' of the folder .* have no labels"):
        load_real(tmp_path / "contest", "test")


def test_folders_beside_splits(tmp_path):
    # As a well-known set of landscapes is packed: each split in a folder of its own name.
    for split, images in (("train", 2), ("test", 1)):
        for name in ("glacier", "street"):
            place = f"seg_{split}/seg_{split}/{name}"
            draw(tmp_path, *(f"{place}/{i}.jpg" for i in range(images)))
    draw(tmp_path, "seg_pred/seg_pred/1.jpg")
    assert counts_of(load_real(tmp_path, "train")) == {"glacier": 2, "street": 2}
    assert counts_of(load_real(tmp_path, "test")) == {"glacier": 1, "street": 1}


def test_splits_have_classes_in_common(tmp_path):
    draw(tmp_path, "train/cat/1.png", "train/dog/1.png", "val/Cat/1.png", "val/Dog/1.png")
    with pytest.raises(
        DataError, match=r"cat, dog.* 'validation' \(Cat, Dog\) have no class folder"
    ):
        load_real(tmp_path, "validation")
    assert counts_of(load_real(tmp_path, "train")) == {"cat": 1, "dog": 1}


def test_slices_and_sums_of_splits(tmp_path):
    draw(tmp_path, *(f"train/{c}/{i}.png" for c in ("cat", "dog") for i in range(4)))
    draw(tmp_path, "val/cat/1.png", "val/elk/1.png")
    splits = find_class_folders(tmp_path)

    def take(split):
        return Counter(name for _, name in as_here(take_split(splits, split, "x")))

    assert take("train[:6]") == {"cat": 4, "dog": 2}
    assert take("train[75%:]") == {"dog": 2}
    assert take("train+validation") == {"cat": 5, "dog": 4, "elk": 1}
    assert take("train[-1:]+validation[:1]") == {"dog": 1, "cat": 1}
    # The classes of a slice are those of its split.
    assert take_split(splits, "train[:1]", "x").classes == ["cat", "dog"]
    for missing in ("test", "test[:2]", "train+dev"):
        with pytest.raises(MissingSplitError, match="there are 'train', 'validation'"):
            take(missing)
    with pytest.raises(DataError, match="a split or a slice of one"):
        take("train[:")
    with pytest.raises(DataError, match=r"`split` must say which part .*'train', 'validation'"):
        take(None)


def test_names_that_are_no_text(tmp_path):
    draw(tmp_path / "files", "cat/1.png", "dog/1.png")
    (tmp_path / "files/cat/1.png").rename(tmp_path / "files/cat" / os.fsdecode(b"\xff.png"))
    assert counts_of(load_real(tmp_path / "files")) == {"cat": 1, "dog": 1}
    with pytest.raises(DataError, match="name of a file is not valid text"):
        load_real(tmp_path / "files", streaming=True)
    (tmp_path / "files/cat").rename(tmp_path / "files" / os.fsdecode(b"c\xff"))
    with pytest.raises(DataError, match=r"is not valid text .*; rename it"):
        load_real(tmp_path / "files")


def test_images_are_opened_when_they_are_wanted(tmp_path, monkeypatch):
    draw(tmp_path, *(f"{c}/{i}.png" for c in ("cat", "dog") for i in range(600)))
    opened = []
    monkeypatch.setattr(
        Image, "open", lambda *args, real=Image.open: (opened.append(0), real(*args))[1]
    )
    real = load_real(tmp_path, max_bytes=100)
    assert not real.in_memory
    before = len(opened)
    assert before <= 1001  # the first, and a sample
    _, labels = real.batch(64, 0)
    assert len(opened) == before + 64
    torch.testing.assert_close(labels.bincount(), labels.new_tensor([30, 34]), atol=20, rtol=0)
