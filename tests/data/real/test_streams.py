"""Streams: every row once per epoch, resumed exactly, and refused where that cannot be."""

import json
import warnings

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Image, IterableDataset
from PIL import Image as PILImage

from dd_plugin.data.real.columns import DataError
from dd_plugin.data.real.dataset import RealData
from tests.data.tables import NAMES, damaged, images, rows_of, table


@pytest.fixture
def stream():
    """100 images in four shards, of which 16 are shuffled at a time."""
    dataset = table(images(100)).to_iterable_dataset(num_shards=4)
    return RealData.from_dataset(dataset, buffer_size=16, seed=3)


def test_stream_shows_every_row_once_per_epoch(stream):
    for _ in range(2):
        rows = [row for _ in range(10) for row in rows_of(stream.batch(10, 0)[0])]
        assert sorted(rows) == list(range(100))
        assert rows != sorted(rows)
        assert sorted(rows[:16]) == list(range(16))  # the first buffer


@pytest.mark.parametrize("shards", [1, 4])
def test_processes_share_a_stream(shards):
    shown, start = [], None
    for process in range(2):
        dataset = table(images(100)).to_iterable_dataset(num_shards=shards)
        own = RealData.from_dataset(dataset, buffer_size=16, seed=3)
        first = own.of_each_class(2, seed=0)[0]
        own.share(process, 2)
        # What a run starts from is the same in all processes.
        assert start is None or torch.equal(first, start)
        start = own.of_each_class(2, seed=0)[0]
        assert torch.equal(first, start)
        early = [row for _ in range(3) for row in rows_of(own.batch(10, 0)[0])]
        position = json.loads(json.dumps(own.state_dict()))
        late = [row for _ in range(2) for row in rows_of(own.batch(10, 0)[0])]
        shown.append(early + late)
        resumed = RealData.from_dataset(dataset, buffer_size=16, seed=3)
        resumed.share(process, 2)
        resumed.load_state_dict(position)
        assert [row for _ in range(2) for row in rows_of(resumed.batch(10, 0)[0])] == late
    assert sorted(shown[0] + shown[1]) == list(range(100))


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


def vanishing(epochs):
    """A stream of 20 images whose labels depend on the pass."""
    passes = iter(epochs)

    def examples():
        kinds = next(passes)
        for row, each in enumerate(images(20)):
            yield {"image": PILImage.fromarray(each), "label": kinds[row % len(kinds)]}

    return IterableDataset.from_generator(examples)


def test_a_class_that_vanishes_from_a_stream_is_told():
    # Two passes look at the features and the first image, then one is read per epoch.
    data = vanishing([[0, 1, 2]] * 3 + [[0, 2]] * 2 + [[0], [0, 1, 2]] + [[2]] * 9)
    real = RealData.from_dataset(data, class_names=NAMES, buffer_size=8)
    real.batch(20, 0)  # the first epoch, whole
    told = []
    for step in range(6):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            real.batch(20, step)
        told.append([str(each.message) for each in caught])
    assert any(
        "no image of the classes bee in the whole of epoch 2; check" in t
        for each in told
        for t in each
    )
    # Once for each set of classes, and not for those that came back.
    assert [len(each) for each in told] == [0, 1, 0, 1, 0, 1]
    assert "classes bee, cow in" in told[3][0]
    assert "classes ant, bee in" in told[5][0]


def test_a_class_that_a_stream_never_shows_is_told_after_resuming_too():
    names = [*NAMES, "dog"]

    def fresh():
        dataset = table(images(40)).to_iterable_dataset()
        features = dataset.features.copy()
        features["label"] = ClassLabel(names=names)
        return RealData.from_dataset(dataset.cast(features), buffer_size=16)

    first = fresh()
    first.batch(20, 0)
    state = json.loads(json.dumps(first.state_dict()))
    for known in (True, False):
        resumed = fresh()
        if not known:
            del state["position"]["shown"]  # as 0.1.0 wrote it
        resumed.load_state_dict(state)
        if known:
            with pytest.warns(
                UserWarning, match="no image of the classes dog in the whole of epoch 1"
            ):
                resumed.batch(30, 1)
        else:
            resumed.batch(30, 1)
            with pytest.warns(
                UserWarning, match="no image of the classes dog in the whole of epoch 2"
            ):
                resumed.batch(40, 1)
