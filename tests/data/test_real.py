"""Real data: read from anything, checked before any work, sampled by seed, resumed exactly."""

import copy
import io
import json
import pickle

import numpy as np
import pytest
import torch
from datasets import (
    Array3D,
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Image,
    IterableDataset,
    Value,
)
from PIL import Image as PILImage
from torch.utils.data import TensorDataset

from dd_plugin.data.columns import DataError
from dd_plugin.data.real import RealData, load_real

NAMES = ["ant", "bee", "cow"]


def images(count=30, shape=(4, 5), seed=0):
    """Random images whose first pixel is their row, so that they can be told apart."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)
    pixels.reshape(count, -1)[:, 0] = np.arange(count) % 256
    return pixels


def table(pixels, labels=None, names=NAMES):
    labels = [row % len(names) for row in range(len(pixels))] if labels is None else labels
    return Dataset.from_dict(
        {"image": [PILImage.fromarray(each) for each in pixels], "label": labels},
        features=Features(image=Image(), label=ClassLabel(names=names)),
    )


def damaged(dataset, row, body=b"no image"):
    """The same table with other bytes in place of one image."""
    cells = dataset.with_format("arrow")[:]["image"].to_pylist()
    cells[row] = None if body is None else {"bytes": body, "path": None}
    return Dataset.from_dict({"image": cells, "label": dataset["label"]}, features=dataset.features)


def rows_of(batch):
    """The rows that `images` gave their first pixel."""
    return (batch[:, 0, 0, 0] * 255).round().int().tolist()


@pytest.fixture(params=["memory", "on demand"])
def real(request):
    return RealData.from_dataset(
        table(images()), max_bytes=2 << 30 if request.param == "memory" else 100
    )


@pytest.fixture
def stream():
    """100 images in four shards, of which 16 are shuffled at a time."""
    dataset = table(images(100)).to_iterable_dataset(num_shards=4)
    return RealData.from_dataset(dataset, buffer_size=16, seed=3)


# --- what it says of itself ---------------------------------------------------------------------


def test_attributes(real):
    assert real.class_names == NAMES
    assert real.num_classes == 3
    assert real.shape == (1, 4, 5)
    assert len(real) == 30
    assert real.class_counts() == [10, 10, 10]
    assert "30 images, 3 classes" in repr(real)


def test_both_ways_to_keep_rows_agree():
    memory = RealData.from_dataset(table(images()))
    demand = RealData.from_dataset(table(images()), max_bytes=100)
    assert memory.in_memory
    assert not demand.in_memory
    for draw in (
        lambda real: real.batch(12, 5),
        lambda real: real.batch(12, 5, balanced=True),
        lambda real: real.of_each_class(4, 5),
    ):
        for one, other in zip(draw(memory), draw(demand), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
    torch.testing.assert_close(memory.class_means(), demand.class_means())
    assert memory.mean_std() == demand.mean_std()


def test_it_can_be_pickled_and_copied(real):
    for twin in (pickle.loads(pickle.dumps(real)), copy.deepcopy(real)):
        torch.testing.assert_close(twin.batch(5, 1), real.batch(5, 1))


# --- sampling -----------------------------------------------------------------------------------


def test_batches_are_the_images_in_order(real):
    pixels = images()
    parts = list(real.batches(7))
    assert [len(labels) for _, labels in parts] == [7, 7, 7, 7, 2]
    batch = torch.cat([part for part, _ in parts])
    assert batch.dtype == torch.float32
    expected = torch.from_numpy(pixels)[:, None].float() / 255
    torch.testing.assert_close(batch, expected, rtol=0, atol=0)
    assert torch.cat([labels for _, labels in parts]).tolist() == [0, 1, 2] * 10


def test_a_batch_depends_on_its_seed_alone(real):
    first, labels = real.batch(8, 1)
    real.batch(8, 2)
    again, labels_again = real.batch(8, 1)
    assert torch.equal(first, again)
    assert torch.equal(labels, labels_again)
    assert rows_of(first) != rows_of(real.batch(8, 2)[0])
    assert labels.dtype == torch.int64
    assert labels.tolist() == [row % 3 for row in rows_of(first)]


def test_rows_are_drawn_without_replacement_while_there_are_any(real):
    assert sorted(rows_of(real.batch(30, 0)[0])) == list(range(30))
    counts = np.bincount(rows_of(real.batch(75, 0)[0]))
    assert set(counts) == {2, 3}


def test_balanced_batches():
    labels = [0] * 25 + [1] * 4 + [2]
    real = RealData.from_dataset(table(images(), labels))
    batch, drawn = real.batch(12, 0, balanced=True)
    assert torch.bincount(drawn).tolist() == [4, 4, 4]
    assert np.bincount(rows_of(batch)).max() == 4  # class 2 has one image, used four times
    assert sorted(row for row in rows_of(batch) if 25 <= row < 29) == [25, 26, 27, 28]
    assert drawn.tolist() != sorted(drawn.tolist())
    # 13 = 3 * 4 + 1: the class that gets one more is drawn, too.
    draws = [real.batch(13, seed, balanced=True)[1] for seed in range(20)]
    assert {int(torch.bincount(labels).argmax()) for labels in draws} == {0, 1, 2}


def test_of_each_class(real):
    batch, labels = real.of_each_class(4, 0)
    assert labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert [row % 3 for row in rows_of(batch)] == labels.tolist()
    assert len(set(rows_of(batch))) == 12
    assert rows_of(batch) != rows_of(real.of_each_class(4, 1)[0])


def test_class_means_and_mean_std():
    pixels = images(30, (4, 5, 3))
    real = RealData.from_dataset(table(pixels))
    values = pixels.astype(np.float64) / 255
    expected = np.stack([values[label::3].mean(0) for label in range(3)])
    np.testing.assert_allclose(real.class_means().permute(0, 2, 3, 1), expected, rtol=1e-6)
    mean, std = real.mean_std()
    np.testing.assert_allclose(mean, values.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, values.std((0, 1, 2)), rtol=1e-12)


def test_sizes_must_be_positive(real):
    with pytest.raises(ValueError, match="`size` must be at least 1, got 0"):
        real.batch(0, 1)
    with pytest.raises(ValueError, match="`per_class` must be at least 1"):
        real.of_each_class(0, 1)
    with pytest.raises(ValueError, match="`size`"):
        next(real.batches(0))


def test_state_of_rows_is_checked(real):
    state = json.loads(json.dumps(real.state_dict()))
    real.load_state_dict(state)
    with pytest.raises(DataError, match="its length is 30, here it is 10"):
        RealData.from_dataset(table(images(10))).load_state_dict(state)


@pytest.mark.parametrize("options", [{}, {"max_bytes": 100}, {"streamed": True}])
def test_batches_are_on_the_device(options):
    dataset = table(images())
    if options.pop("streamed", False):
        dataset, options = dataset.to_iterable_dataset(), {"buffer_size": 8}
    real = RealData.from_dataset(dataset, device="meta", **options)
    for part in (*real.batch(4, 0), *real.of_each_class(2, 0), *next(real.batches(3))):
        assert part.device.type == "meta"


# --- images of all kinds ------------------------------------------------------------------------


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


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize("max_bytes", [2 << 30, 100])
@pytest.mark.parametrize("body", [b"no image", b"", None])
def test_damaged_image_is_found_at_once(max_bytes, body):
    with pytest.raises(DataError, match="row 17: the image"):
        RealData.from_dataset(damaged(table(images()), 17, body), max_bytes=max_bytes)


def test_truncated_image_is_found_at_once():
    whole = table(images()).with_format("arrow")[4:5]["image"].to_pylist()[0]["bytes"]
    with pytest.raises(DataError, match="row 4: the image"):
        RealData.from_dataset(damaged(table(images()), 4, whole[: len(whole) // 2]))


@pytest.mark.parametrize("label", [None, -1, 3])
def test_bad_label_is_found_at_once(label):
    dataset = table(images())
    labels = [*dataset["label"][:29], label]
    cells = dataset.with_format("arrow")[:]["image"].to_pylist()
    bad = Dataset.from_dict({"image": cells, "label": labels})
    features = Features(image=Image(), label=ClassLabel(names=NAMES))
    if label == 3:
        bad = bad.cast_column("image", Image())
        with pytest.raises(DataError, match="row 29 has the label 3, the 3 classes have 0 to 2"):
            RealData.from_dataset(bad, class_names=NAMES)
    else:
        with pytest.raises(DataError, match=f"row 29 has .*label.*{label}"):
            RealData.from_dataset(bad.cast(features))


def test_empty_and_one_class():
    with pytest.raises(DataError, match="the data set has no rows"):
        RealData.from_dataset(table(images()).select([]))
    with pytest.raises(DataError, match="split 'train' has no rows"):
        RealData.from_dataset(DatasetDict(train=table(images()).select([])), split="train")
    with pytest.raises(DataError, match="no rows"):
        RealData.from_dataset([])
    with pytest.raises(DataError, match=r"at least two classes, got 1 \(0\)"):
        RealData.from_dataset([(torch.zeros(1, 2, 2), 0)] * 3)


def test_class_with_too_few_images_is_named():
    real = RealData.from_dataset(table(images(), [0] * 28 + [1] * 2))
    message = "at least 3 images, but 'bee' has 2, 'cow' has 0"
    with pytest.raises(DataError, match=message):
        real.of_each_class(3, 0)
    with pytest.raises(DataError, match=message):
        real.check_classes(3)
    for work in (real.class_means, lambda: real.batch(3, 0, balanced=True)):
        with pytest.raises(DataError, match="at least 1 images, but 'cow' has 0"):
            work()
    real.batch(30, 0)  # it is still a test set


def test_splits():
    both = DatasetDict(train=table(images(9)), test=table(images(6)))
    assert len(RealData.from_dataset(both, split="test")) == 6
    assert len(RealData.from_dataset(DatasetDict(test=both["test"]))) == 6
    with pytest.raises(DataError, match=r"`split` must say which part .*'train', 'test'"):
        RealData.from_dataset(both)
    with pytest.raises(DataError, match="no split 'dev'; there are 'train', 'test'"):
        RealData.from_dataset(both, split="dev")
    with pytest.raises(DataError, match="a single split already"):
        RealData.from_dataset(both["train"], split="test")


@pytest.mark.parametrize("dataset", [None, 3, "train", {}, torch.zeros(3, 1, 2, 2), iter([])])
def test_what_is_no_data_set(dataset):
    with pytest.raises(TypeError, match=r"`dataset` must be a datasets\.Dataset"):
        RealData.from_dataset(dataset)


@pytest.mark.parametrize("item", [torch.zeros(1, 2, 2), (torch.zeros(1, 2, 2),), {"image": 0}])
def test_sequence_of_something_else(item):
    with pytest.raises(DataError, match=r"row 0 of the sequence must be \(image, label\)"):
        RealData.from_dataset([item])


# --- streams ------------------------------------------------------------------------------------


def test_stream_shows_every_row_once_per_epoch(stream):
    for _ in range(2):
        rows = [row for _ in range(10) for row in rows_of(stream.batch(10, 0)[0])]
        assert sorted(rows) == list(range(100))
        assert rows != sorted(rows)
        assert sorted(rows[:16]) == list(range(16))  # the first buffer


def test_stream_labels_belong_to_the_images(stream):
    for balanced in (False, True):
        batch, labels = stream.batch(25, 7, balanced=balanced)
        assert labels.tolist() == [row % 3 for row in rows_of(batch)]
    assert sorted(torch.bincount(labels).tolist()) == [8, 8, 9]


def test_streams_with_another_seed_have_another_order(stream):
    dataset = table(images(100)).to_iterable_dataset(num_shards=4)
    same = RealData.from_dataset(dataset, buffer_size=16, seed=3)
    other = RealData.from_dataset(dataset, buffer_size=16, seed=4)
    rows = rows_of(stream.batch(30, 0)[0])
    assert rows == rows_of(same.batch(30, 0)[0])
    assert rows != rows_of(other.batch(30, 0)[0])


def sources():
    rows = table(images(50))
    generated = [{"image": row["image"], "label": row["label"]} for row in rows]
    yield "shards", rows.to_iterable_dataset(num_shards=4)
    yield "generator", IterableDataset.from_generator(lambda: iter(generated))
    yield "own shuffle", rows.to_iterable_dataset(num_shards=4).shuffle(seed=1, buffer_size=7)
    yield "map", rows.to_iterable_dataset().map(lambda row: {"label": row["label"]})
    yield "torch", rows.to_iterable_dataset().with_format("torch")


@pytest.mark.parametrize(("kind", "dataset"), list(sources()), ids=lambda value: str(value)[:11])
@pytest.mark.parametrize("steps", [0, 1, 2, 3, 5, 12])
def test_resumed_stream_shows_what_an_undisturbed_one_would_have(kind, dataset, steps):
    # Batches of 8 from buffers of 16 in an epoch of 50: positions inside, at the end of a buffer,
    # and in the second epoch.
    def fresh():
        return RealData.from_dataset(
            dataset, buffer_size=16, class_names=NAMES if kind in ("generator", "map") else None
        )

    def walk(real, start, stop):
        for step in range(start, stop):
            yield rows_of(real.batch(8, step, balanced=step % 4 == 3)[0])

    undisturbed = fresh()
    list(walk(undisturbed, 0, steps))
    state = json.loads(json.dumps(undisturbed.state_dict()))
    resumed = fresh()
    list(walk(resumed, 0, 4))
    resumed.load_state_dict(state)
    assert list(walk(resumed, steps, steps + 10)) == list(walk(undisturbed, steps, steps + 10))


def test_stream_that_shuffles_itself_is_told_the_epoch():
    dataset = table(images(100)).to_iterable_dataset().shuffle(seed=1, buffer_size=50)
    real = RealData.from_dataset(dataset, buffer_size=16)
    first, second = (rows_of(real.batch(100, 0)[0]) for _ in range(2))
    assert sorted(first) == sorted(second)
    # A buffer holds what the data set gave it, which depends on the epoch.
    assert set(first[:16]) != set(second[:16])


def test_looking_at_a_stream_does_not_move_it(stream):
    dataset = table(images(100)).to_iterable_dataset(num_shards=4)
    untouched = RealData.from_dataset(dataset, buffer_size=16, seed=3)
    for _ in range(4):
        expected = rows_of(untouched.batch(11, 0)[0])
        stream.mean_std(), stream.class_means(), stream.of_each_class(2, 0), stream.state_dict()
        scan = stream.batches(9)
        next(scan)
        assert rows_of(stream.batch(11, 0)[0]) == expected
        assert rows_of(next(scan)[0]) == list(range(9, 18))


def test_stream_scan_and_statistics(stream):
    pixels = images(100)
    assert [row for batch, _ in stream.batches(30) for row in rows_of(batch)] == list(range(100))
    # Of 34, 33 and 33 images per class none is left out; the statistics are of the first buffer.
    expected = np.stack([pixels[label::3].mean(0) / 255 for label in range(3)])
    np.testing.assert_allclose(stream.class_means()[:, 0], expected, rtol=1e-6)
    for _ in range(2):
        np.testing.assert_allclose(stream.mean_std()[0][0], pixels[:16].mean() / 255, rtol=1e-12)
        stream.batch(40, 0)


def test_stream_of_each_class(stream):
    batch, labels = stream.of_each_class(2, 0)
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert [row % 3 for row in rows_of(batch)] == labels.tolist()
    assert len(set(rows_of(batch))) == 6
    assert rows_of(batch) == rows_of(stream.of_each_class(2, 0)[0])
    assert rows_of(batch) != rows_of(stream.of_each_class(2, 1)[0])
    with pytest.raises(DataError, match="at least 34 images, but 'bee' has 33, 'cow' has 33"):
        stream.of_each_class(34, 0)


def test_stream_has_no_length(stream):
    with pytest.raises(TypeError, match="the length of a stream is not known"):
        len(stream)
    assert stream
    assert stream.class_counts() is None
    stream.check_classes(1000)  # cannot be known
    assert "a stream" in repr(stream)


def test_stream_within_its_buffer_is_kept():
    real = RealData.from_dataset(table(images(15)).to_iterable_dataset(), buffer_size=16)
    assert real.in_memory
    assert len(real) == 15


def test_stream_buffer_is_bounded_by_memory():
    dataset = table(images(100)).to_iterable_dataset()
    # An image has 20 bytes, so 200 bytes hold ten.
    real = RealData.from_dataset(dataset, max_bytes=200)
    assert sorted(rows_of(real.batch(10, 0)[0])) == list(range(10))


def test_bad_streams():
    with pytest.raises(DataError, match="row 9: the image"):
        RealData.from_dataset(damaged(table(images()), 9).to_iterable_dataset())
    late = RealData.from_dataset(damaged(table(images()), 20).to_iterable_dataset(), buffer_size=8)
    with pytest.raises(DataError, match="row 20: the image"):
        late.batch(30, 0)
    with pytest.raises(DataError, match="no rows"):
        RealData.from_dataset(IterableDataset.from_generator(lambda: iter([])))
    words = Dataset.from_dict({"image": table(images())["image"][:], "label": ["a"] * 30})
    with pytest.raises(DataError, match="pass `class_names`"):
        RealData.from_dataset(words.cast_column("image", Image()).to_iterable_dataset())


def test_stream_position_is_checked(stream):
    state = stream.state_dict()
    dataset = table(images(100)).to_iterable_dataset(num_shards=4)
    with pytest.raises(DataError, match="with `seed` 3, here it is 0"):
        RealData.from_dataset(dataset, buffer_size=16).load_state_dict(state)
    with pytest.raises(DataError, match="with `buffer_size` 16, here it is 17"):
        RealData.from_dataset(dataset, buffer_size=17, seed=3).load_state_dict(state)
    with pytest.raises(DataError, match="belongs to other data"):
        RealData.from_dataset(table(images(100))).load_state_dict(state)


def test_stream_that_does_not_repeat_itself_is_not_resumed():
    numbers = iter(range(1000))

    def example():
        return {"image": PILImage.new("L", (2, 2), next(numbers) % 256), "label": 0}

    dataset = IterableDataset.from_generator(lambda: (example() for _ in range(50)))
    real = RealData.from_dataset(dataset, class_names=["a", "b"], buffer_size=8)
    with pytest.raises(DataError, match="a stream must repeat itself"):
        real.load_state_dict(real.state_dict())


def test_grey_stream_with_colour_in_its_first_buffer():
    grey, colour = PILImage.new("L", (2, 2), 7), PILImage.new("RGB", (2, 2), (1, 2, 3))
    examples = [{"image": grey, "label": 0}, {"image": colour, "label": 1}] * 3
    dataset = IterableDataset.from_generator(lambda: iter(examples))
    real = RealData.from_dataset(dataset, class_names=["a", "b"], buffer_size=4)
    assert real.shape == (3, 2, 2)
    assert real.batch(6, 0)[0].shape == (6, 3, 2, 2)


# --- by name ------------------------------------------------------------------------------------


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
    with pytest.raises(DataError, match=r"row \d: the image .*bee.1\.png cannot be read"):
        load_real(tmp_path / "data")


def test_load_what_save_to_disk_wrote(tmp_path):
    DatasetDict(train=table(images(9)), test=table(images(6))).save_to_disk(tmp_path / "both")
    table(images(5)).save_to_disk(tmp_path / "one")
    assert len(load_real(tmp_path / "both", "test")) == 6
    assert len(load_real(tmp_path / "one")) == 5
    for file in (tmp_path / "one").glob("*.arrow"):
        file.write_bytes(b"broken")
    with pytest.raises(DataError, match="could not be read"):
        load_real(tmp_path / "one")


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
    with pytest.raises(DataError, match=r"data set 'nobody/nothing' could not be had: .*'digits'"):
        load_real("nobody/nothing")
    with pytest.raises(DataError, match="could not be read"):
        load_real(tmp_path)
    (tmp_path / "train.parquet").write_bytes(b"PAR1 broken PAR1")
    with pytest.raises(DataError, match="could not be read"):
        load_real(tmp_path)
