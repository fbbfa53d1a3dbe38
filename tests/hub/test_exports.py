"""What other tools read from an export is what was exported."""

from pathlib import Path

import pytest
import torch
from datasets import load_dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor

from dd_plugin.hub.exports import (
    DD_RANKING_NORMALIZATION,
    export_dd_ranking,
    export_image_folder,
)

# Names that sort in another order than they come in, look like splits, hidden folders, numbers or
# paths, or are the same to a file system that knows no case.
AWKWARD = ["train", "cat", "Cat", "../up", ".hidden", "a/b", "10", "9", "test tube", "nul", "é", ""]
PLAIN = ["airplane", "bird", "maple tree"]
NUMBERS = [str(i) for i in range(12)]
# Sorted by their characters; timm sorts without case and by the value of numbers.
OTHERWISE_SORTED = ["B", "a10", "a2"]
LIKE_A_SPLIT = ["cat", "train"]


def images_of(count, channels=3):
    """Images whose pixels are exact in 8 bits."""
    return torch.randint(0, 256, (count, channels, 4, 5)) / 255


@pytest.fixture(
    params=[PLAIN, AWKWARD, NUMBERS, OTHERWISE_SORTED, LIKE_A_SPLIT],
    ids=["plain", "awkward", "numbers", "otherwise_sorted", "like_a_split"],
)
def exported(request, tmp_path):
    names = request.param
    labels = torch.arange(len(names)).repeat(2)
    images = images_of(len(labels))
    export_image_folder(tmp_path / "out", images, labels, names)
    return tmp_path / "out", names, images, labels


def in_order(images, labels):
    """By class, and in each class as they came."""
    order = torch.argsort(labels, stable=True)
    return (images[order] * 255).round().to(torch.uint8), labels[order].tolist()


def test_torchvision_reads_it(exported):
    folder, _, images, labels = exported
    pixels, expected = in_order(images, labels)
    found = ImageFolder(str(folder))
    assert found.targets == expected
    assert torch.stack([pil_to_tensor(image) for image, _ in found]).equal(pixels)


# timm leaves it to the interpreter to close the files that it read.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_timm_reads_it(exported):
    from timm.data import create_dataset

    folder, _, images, labels = exported
    pixels, expected = in_order(images, labels)
    found = create_dataset("", root=str(folder), split="train")
    assert [label for _, label in found] == expected
    assert torch.stack([pil_to_tensor(image) for image, _ in found]).equal(pixels)


@pytest.mark.parametrize("by_name", [True, False])
def test_datasets_reads_it(exported, tmp_path, by_name):
    folder, _, images, labels = exported
    pixels, expected = in_order(images, labels)
    where = {"path": "imagefolder", "data_dir": str(folder)} if by_name else {"path": str(folder)}
    found = load_dataset(**where, cache_dir=str(tmp_path / "cache"))
    assert list(found) == ["train"]
    assert found["train"]["label"] == expected
    assert torch.stack([pil_to_tensor(image) for image in found["train"]["image"]]).equal(pixels)


def test_folders_have_plain_names_where_these_sort_as_the_classes_do(tmp_path):
    export_image_folder(tmp_path / "a", images_of(3), torch.arange(3), PLAIN)
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == PLAIN
    export_image_folder(tmp_path / "b", images_of(3), torch.arange(3), PLAIN[::-1])
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == [
        "0_maple tree",
        "1_bird",
        "2_airplane",
    ]


def test_names_that_differ_in_case_alone_get_folders_that_do_not(tmp_path):
    export_image_folder(tmp_path / "out", images_of(2), torch.arange(2), ["Cat", "cat"])
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["0_Cat", "1_cat"]


def test_gray_images_stay_gray(tmp_path):
    images = images_of(2, channels=1)
    export_image_folder(tmp_path / "out", images, torch.tensor([0, 1]), ["a", "b"])
    found = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))["train"]
    assert [image.mode for image in found["image"]] == ["L", "L"]


def test_a_folder_in_use_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="`folder` must be new or empty"):
        export_image_folder(tmp_path, images_of(1), torch.tensor([0]), ["a"])
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("name", ["mine.txt", "images.pt"])
def test_dd_ranking_leaves_a_folder_in_use_alone(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match="`folder` must be new or empty"):
        export_dd_ranking(tmp_path, images_of(1), torch.tensor([0]))
    assert [p.read_text() for p in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("files", [0, 1, 2])
def test_dd_ranking_without_room_leaves_nothing(tmp_path, monkeypatch, files):
    written = []
    write = Path.write_bytes

    def full(path, content):
        if len(written) == files:
            write(path, bytes(content)[:10])
            raise OSError(28, "No space left on device")
        written.append(path)
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        export_dd_ranking(tmp_path / "out", images_of(1), torch.tensor([0]), None, 0.1)
    assert not list(tmp_path.iterdir())


def test_a_failed_export_leaves_nothing(tmp_path, monkeypatch):
    from PIL import Image

    def fails(*_, **__):
        raise OSError("no room")

    monkeypatch.setattr(Image.Image, "save", fails)
    with pytest.raises(OSError, match="no room"):
        export_image_folder(tmp_path / "out", images_of(1), torch.tensor([0]), ["a"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("images", "labels", "names", "message"),
    [
        (images_of(2), torch.tensor([0, 2]), ["a", "b", "c"], "none of 'b'"),
        (images_of(2), torch.tensor([0, 2]), ["a", "b"], "`labels` must lie between 0 and 1"),
        (images_of(2), torch.tensor([0.0, 1.0]), ["a", "b"], "`labels` must be 2 class indices"),
        (images_of(2), torch.tensor([0]), ["a"], "`labels` must be 2 class indices"),
        (images_of(2, channels=2), torch.tensor([0, 1]), ["a", "b"], "1 or 3"),
        (torch.rand(3, 4, 5), torch.tensor([0, 1, 1]), ["a", "b"], r"`images` must be \(N, C"),
    ],
)
def test_image_folder_mistakes(tmp_path, images, labels, names, message):
    with pytest.raises(ValueError, match=message):
        export_image_folder(tmp_path / "out", images, labels, names)
    assert not list(tmp_path.iterdir())


def test_dd_ranking_files(tmp_path):
    images, labels = images_of(6), torch.tensor([2, 1, 0, 0, 1, 2])
    soft = torch.rand(6, 3).softmax(1)
    export_dd_ranking(tmp_path, images, labels, soft, 0.03, dataset="CIFAR10")
    found, logits, lr = (torch.load(tmp_path / f"{n}.pt") for n in ("images", "labels", "lr"))
    order = [2, 3, 1, 4, 0, 5]
    # What torchvision's Normalize makes of a pixel x of the first channel: (x - 0.4914) / 0.2023.
    assert found.dtype == torch.float32
    assert found.shape == (6, 3, 4, 5)
    torch.testing.assert_close(found[:, 0], (images[order, 0] - 0.4914) / 0.2023)
    torch.testing.assert_close(found[:, 2], (images[order, 2] - 0.4465) / 0.2010)
    # Its losses take a softmax of the labels, which has to give the probabilities.
    torch.testing.assert_close(logits.softmax(1), soft[order])
    assert lr.item() == pytest.approx(0.03)


def test_dd_ranking_without_soft_labels_or_step_size(tmp_path):
    images, labels = images_of(4, channels=1).double(), torch.tensor([1, 0, 1, 0])
    export_dd_ranking(tmp_path, images, labels)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images.pt", "labels.pt"]
    # Its hard labels are ipc times each class, class after class.
    assert torch.load(tmp_path / "labels.pt").tolist() == [0, 0, 1, 1]
    assert torch.load(tmp_path / "images.pt").equal(images[[1, 3, 0, 2]].float())


def test_dd_ranking_labels_of_probability_zero_are_finite(tmp_path):
    soft = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    export_dd_ranking(tmp_path, images_of(2), torch.tensor([0, 1]), soft)
    logits = torch.load(tmp_path / "labels.pt")
    assert logits.isfinite().all()
    torch.testing.assert_close(logits.softmax(1), soft)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.tensor([0, 0, 1])}, "as many images as the others"),
        ({"soft_labels": torch.rand(2, 3)}, r"`soft_labels` must be \(3, classes\)"),
        ({"dataset": "MNIST"}, "`dataset` must be one of CIFAR10"),
        ({"dataset": "CIFAR10", "images": images_of(3, channels=1)}, r"must be \(N, 3, H, W\)"),
    ],
)
def test_dd_ranking_mistakes(tmp_path, change, message):
    given = {"images": images_of(3), "labels": torch.arange(3), **change}
    with pytest.raises(ValueError, match=message):
        export_dd_ranking(tmp_path, **given)


def test_dd_ranking_normalizations_are_of_three_channels():
    for mean, std in DD_RANKING_NORMALIZATION.values():
        assert len(mean) == len(std) == 3
