"""Rows of tables and sequences, decoded to one shape; what is no data set is refused."""

import io

import numpy as np
import pytest
import torch
from datasets import Array3D, ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage
from torch.utils.data import TensorDataset

from dd_plugin.data.real.columns import DataError, MissingSplitError
from dd_plugin.data.real.dataset import RealData
from dd_plugin.data.recipe import Recipe
from tests.data.tables import NAMES, damaged, images, rows_of, table

# --- tables and sequences ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["array", "lists", "bytes", "paths"])
def test_columns_that_are_no_image_features(kind, tmp_path):
    pixels = images(6, (4, 5, 3))
    feature = {"array": Array3D((4, 5, 3), "uint8"), "bytes": Value("binary")}.get(kind)
    column = list(pixels)
    if kind == "lists":
        column = pixels.tolist()
    elif kind == "bytes":
        column = []
        for each in pixels:
            file = io.BytesIO()
            PILImage.fromarray(each).save(file, "PNG")
            column.append(file.getvalue())
    elif kind == "paths":
        column = [str(tmp_path / f"{row}.png") for row in range(6)]
        for each, path in zip(pixels, column, strict=True):
            PILImage.fromarray(each).save(path)
    features = Features(img=feature, label=Value("string")) if feature else None
    dataset = Dataset.from_dict({"img": column, "label": list("aabbcc")}, features=features)
    real = RealData.from_dataset(dataset)
    assert real.class_names == ["a", "b", "c"]
    batch, labels = next(real.batches(6))
    torch.testing.assert_close(batch, torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255)
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_selected_shuffled_and_formatted_tables():
    dataset = table(images()).select([5, 3, 8]).with_format("torch")
    assert rows_of(next(RealData.from_dataset(dataset).batches(3))[0]) == [5, 3, 8]
    shuffled = table(images()).shuffle(seed=0)
    batch, labels = next(RealData.from_dataset(shuffled).batches(30))
    assert labels.tolist() == [row % 3 for row in rows_of(batch)]


def test_torch_style_sequences():
    pixels = images(6)
    tensors = torch.from_numpy(pixels)[:, None]
    expected = tensors / 255
    for data in (
        [(PILImage.fromarray(each), row % 3) for row, each in enumerate(pixels)],
        [(each, torch.tensor(row % 3)) for row, each in enumerate(tensors)],
        [(each / 255, np.int64(row % 3)) for row, each in enumerate(tensors)],
        TensorDataset(tensors, torch.arange(6) % 3),
    ):
        real = RealData.from_dataset(data)
        assert real.class_names == ["0", "1", "2"]
        batch, labels = next(real.batches(6))
        torch.testing.assert_close(batch, expected)
        assert labels.tolist() == [0, 1, 2, 0, 1, 2]


def test_sequence_classes_are_named_as_torchvision_does():
    class Folder(list):
        classes = ("bee", "cow")

    pixel = torch.zeros(1, 2, 2)
    data = Folder([(pixel, 0), (pixel, 1)])
    assert RealData.from_dataset(data).class_names == ["bee", "cow"]
    real = RealData.from_dataset(data, class_names=NAMES)
    assert next(real.batches(2))[1].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        # As torchvision's Imagenette and ImageNet have them: all the words for a class.
        ((("tench", "Tinca tinca"), ("chain saw", "chainsaw")), ["tench", "chain saw"]),
        ([["tench", "Tinca tinca"], ["chain saw"]], ["tench", "chain saw"]),
        # Two of ImageNet's are both a crane, one flies.
        ([("crane",), ("ox",), ("crane",)], ["crane (0)", "ox", "crane (2)"]),
        ([7, 3], ["7", "3"]),
        ([np.int64(7), None], ["7", "None"]),
        ([(), ("ox",)], ["()", "ox"]),
    ],
    ids=str,
)
def test_sequence_classes_that_are_no_text(classes, names):
    class Named(list):
        pass

    pixel = torch.zeros(1, 2, 2)
    data = Named((pixel, row) for row in range(len(names)))
    data.classes = classes
    real = RealData.from_dataset(data)
    assert real.class_names == names
    recipe = Recipe(shape=real.shape, class_names=tuple(real.class_names), steps=1)
    assert list(Recipe.from_dict(recipe.to_dict()).class_names) == names
    # A test set of the same kind has the same classes.
    assert next(RealData.from_dataset(data, class_names=names).batches(9))[1].tolist() == list(
        range(len(names))
    )


@pytest.mark.parametrize(
    ("classes", "twice"), [([7, 7], "7"), (["ox", "ox"], "ox"), ([None, None], "None")]
)
def test_sequence_classes_that_are_the_same(classes, twice):
    class Named(list):
        pass

    data = Named((torch.zeros(1, 2, 2), row) for row in range(2))
    data.classes = classes
    with pytest.raises(DataError, match=f"class names must differ, got {twice} more than once"):
        RealData.from_dataset(data)


def test_splits():
    both = DatasetDict(train=table(images(9)), test=table(images(6)))
    assert len(RealData.from_dataset(both, split="test")) == 6
    assert len(RealData.from_dataset(DatasetDict(test=both["test"]))) == 6
    with pytest.raises(DataError, match=r"`split` must say which part .*'train', 'test'"):
        RealData.from_dataset(both)
    with pytest.raises(DataError, match="no split 'dev'; there are 'train', 'test'"):
        RealData.from_dataset(both, split="dev")
    with pytest.raises(MissingSplitError, match="a single split already, without a name"):
        RealData.from_dataset(both["train"], split="test")


@pytest.mark.parametrize("dataset", [None, 3, "train", {}, torch.zeros(3, 1, 2, 2), iter([])])
def test_what_is_no_data_set(dataset):
    with pytest.raises(TypeError, match=r"`dataset` must be a datasets\.Dataset"):
        RealData.from_dataset(dataset)


@pytest.mark.parametrize("item", [torch.zeros(1, 2, 2), (torch.zeros(1, 2, 2),), {"image": 0}])
def test_sequence_of_something_else(item):
    with pytest.raises(DataError, match=r"row 0 of the sequence must be \(image, label\)"):
        RealData.from_dataset([item])


# --- one shape -----------------------------------------------------------------------------------


def test_colour_among_grey_images_makes_all_colour():
    grey, colour = PILImage.new("L", (2, 2), 7), PILImage.new("RGB", (2, 2), (1, 2, 3))
    data = [(grey, 0), (colour, 1), (grey, 0)]
    real = RealData.from_dataset(data)
    assert real.shape == (3, 2, 2)
    assert (real.batch(3, 0)[0].mean((2, 3)) * 255).round().int().tolist().count([7, 7, 7]) == 2
    assert RealData.from_dataset(data, channels=1).shape == (1, 2, 2)
    assert RealData.from_dataset([(grey, 0), (grey, 1)], channels=3).shape == (3, 2, 2)


def test_feature_mode_decides_the_channels():
    features = Features(image=Image(mode="RGB"), label=ClassLabel(names=NAMES))
    dataset = table(images(3)).cast(features)
    assert RealData.from_dataset(dataset).shape == (3, 4, 5)


def test_images_of_different_sizes_need_a_size():
    data = [(PILImage.new("L", (6, 4)), 0), (PILImage.new("L", (4, 6)), 1)]
    with pytest.raises(DataError, match=r"row 0 is 4 x 6 .*row 1 is 6 x 4; pass `image_size`"):
        RealData.from_dataset(data)
    assert RealData.from_dataset(data, image_size=3).shape == (1, 3, 3)
    assert RealData.from_dataset(data, image_size=(2, 5)).shape == (1, 2, 5)


@pytest.mark.parametrize("size", [0, -1, (3,), (3, 0), (3, 3, 3), 2.5, "32"])
def test_image_size_is_checked(size):
    with pytest.raises(ValueError, match="`image_size` must be"):
        RealData.from_dataset(table(images()), image_size=size)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"channels": 2}, "`channels` must be 1 or 3, got 2"),
        ({"max_bytes": 0}, "`max_bytes` must be at least 1"),
        ({"buffer_size": 0}, "`buffer_size` must be at least 1"),
    ],
)
def test_options_are_checked(option, message):
    with pytest.raises(ValueError, match=message):
        RealData.from_dataset(table(images()), **option)


def test_large_files_are_decoded_in_threads(tmp_path):
    # Noise does not compress: each file has more than the 8 KiB below which one thread is used.
    pixels = images(20, (64, 64, 3))
    real = RealData.from_dataset(table(pixels))
    batch = torch.cat([part for part, _ in real.batches(20)])
    torch.testing.assert_close(batch, torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255)
    with pytest.raises(DataError, match="row 13: the image"):
        RealData.from_dataset(damaged(table(pixels), 13))
