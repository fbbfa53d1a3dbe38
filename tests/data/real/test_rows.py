"""Rows with random access: drawn by seed and by class, alike in memory and on demand."""

import json

import numpy as np
import pytest
import torch

from dd_plugin.data.real.columns import DataError
from dd_plugin.data.real.dataset import RealData
from tests.data.tables import damaged, images, rows_of, table


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


def test_state_of_rows_is_checked(real):
    state = json.loads(json.dumps(real.state_dict()))
    real.load_state_dict(state)
    with pytest.raises(DataError, match="its length is 30, here it is 10"):
        RealData.from_dataset(table(images(10))).load_state_dict(state)


@pytest.mark.parametrize("max_bytes", [2 << 30, 100])
@pytest.mark.parametrize("body", [b"no image", b"", None])
def test_damaged_image_is_found_at_once(max_bytes, body):
    with pytest.raises(DataError, match="row 17: the image"):
        RealData.from_dataset(damaged(table(images()), 17, body), max_bytes=max_bytes)


def test_truncated_image_is_found_at_once():
    whole = table(images()).with_format("arrow")[4:5]["image"].to_pylist()[0]["bytes"]
    with pytest.raises(DataError, match="row 4: the image"):
        RealData.from_dataset(damaged(table(images()), 4, whole[: len(whole) // 2]))
