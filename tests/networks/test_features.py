"""Features: what they are, how they are drawn, and what is refused."""

import pytest
import torch

from dd_plugin.data import DataError, RealData
from dd_plugin.data.augmentation import Augmentation
from dd_plugin.networks.features import Features, features_of
from tests.data.tables import images, table
from tests.networks.stand_ins import LABELS, Backbone, data, expected, streamed

# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_bytes", [2 << 30, 100])
def test_copy_0_has_the_features_of_the_plain_images_in_their_order(max_bytes):
    real, backbone = data(max_bytes=max_bytes), Backbone()
    features = features_of(backbone, real, batch_size=32)
    assert features.values.shape == (1, 150, 5)
    assert features.values.dtype == torch.float32
    torch.testing.assert_close(features.plain(), expected(data(), backbone))
    assert features.labels.tolist() == [LABELS[row % 7] for row in range(150)]
    assert (features.copies, features.num_features, features.num_classes) == (1, 5, 3)


def test_a_stream_is_read_like_any_other_data():
    features = features_of(Backbone(), streamed(), batch_size=32)
    other = features_of(Backbone(), data())
    torch.testing.assert_close(features.values, other.values)
    assert torch.equal(features.labels, other.labels)


def test_a_stream_stays_where_it_is():
    one, other = streamed(), streamed()
    one.batch(10, 0)
    other.batch(10, 0)
    features_of(Backbone(), one)
    assert torch.equal(one.batch(10, 0)[0], other.batch(10, 0)[0])


def test_a_gray_image_is_three_equal_channels():
    real, backbone = data(shape=(4, 5)), Backbone()
    (pixels, _), *_ = real.batches(150)
    torch.testing.assert_close(
        features_of(backbone, real).plain(), backbone(pixels.expand(-1, 3, -1, -1))
    )


def test_an_augmentation_may_be_an_object():
    real = data()
    given = features_of(Backbone(), real, copies=2, augmentation=Augmentation("flip", compose=True))
    named = features_of(Backbone(), real, copies=2, augmentation="flip")
    torch.testing.assert_close(given.values, named.values)


def test_no_graph_is_kept_and_no_mode_is_changed():
    backbone = Backbone()
    backbone.weight.requires_grad_(True)
    features = features_of(backbone, data())
    assert not features.values.requires_grad
    assert torch.is_grad_enabled()


def test_half_precision_is_used_where_it_is_asked_for():
    half = features_of(Backbone(), data(), precision="bfloat16")
    full = features_of(Backbone(), data(), precision="auto")
    assert half.values.dtype == torch.float32
    assert torch.equal(half.values, half.values.bfloat16().float())
    assert not torch.equal(full.values, full.values.bfloat16().float())
    torch.testing.assert_close(half.values, full.values, rtol=0.05, atol=0.05)


def test_large_features_are_kept_in_half_precision(monkeypatch, tmp_path):
    monkeypatch.setattr("dd_plugin.networks.features._HALF_FROM", 150 * 5 * 4 - 1)
    features = features_of(Backbone(), data())
    assert features.values.dtype == torch.bfloat16
    assert features.plain().dtype == features.batch(4, 0)[0].dtype == torch.float32
    kept = features_of(Backbone(), data(), folder=tmp_path)
    again = features_of(Backbone(), data(), folder=tmp_path)
    assert kept.values.dtype == torch.bfloat16
    assert torch.equal(kept.values, features.values)
    assert torch.equal(again.values, features.values)


def test_progress_ends_with_all_images_of_all_copies():
    calls = []
    features_of(
        Backbone(),
        data(),
        copies=2,
        augmentation="flip",
        batch_size=60,
        on_progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(60, 300), (120, 300), (150, 300), (210, 300), (270, 300), (300, 300)]


# --- draws ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("size", [1, 10, 200])
def test_a_batch_has_the_rows_that_real_data_draws(size, balanced):
    real, backbone = data(), Backbone()
    features = features_of(backbone, real)
    for seed in range(3):
        pixels, labels = real.batch(size, seed, balanced=balanced)
        drawn, drawn_labels = features.batch(size, seed, balanced)
        torch.testing.assert_close(drawn, backbone(pixels))
        assert torch.equal(drawn_labels, labels)


def test_each_row_of_a_batch_is_of_a_copy_of_its_own():
    rows = torch.arange(40.0)
    values = torch.stack([torch.stack([rows, torch.full_like(rows, k)], 1) for k in range(3)])
    features = Features(values, torch.arange(40) % 2, 2)
    drawn, labels = features.batch(4000, 1)
    assert torch.equal(drawn[:, 0].long() % 2, labels)
    counts = torch.bincount(drawn[:, 1].long(), minlength=3)
    assert counts.min() > 1200  # 1333 on average
    assert not torch.equal(drawn, features.batch(4000, 2)[0])
    assert torch.equal(drawn, features.batch(4000, 1)[0])


def test_values_in_float64_stay_so():
    features = Features(torch.rand(1, 4, 3, dtype=torch.float64), torch.tensor([0, 1, 0, 1]), 2)
    assert features.batch(3, 0)[0].dtype == torch.float64


def test_features_that_cannot_be():
    with pytest.raises(ValueError, match=r"must be \(copies, N, d\)"):
        Features(torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64), 2)
    with pytest.raises(ValueError, match="one for each of 3 rows, got 4"):
        Features(torch.zeros(1, 3, 4), torch.zeros(4, dtype=torch.int64), 2)
    features = Features(torch.zeros(1, 3, 4), torch.tensor([0, 2, 2]), 3)
    with pytest.raises(ValueError, match="class 1 has none"):
        features.batch(4, 0)
    assert len(features.batch(4, 0, balanced=False)[0]) == 4
    with pytest.raises(ValueError, match="`size` must be at least 1"):
        features.batch(0, 0)


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"copies": 0}, "`copies` must be at least 1, got 0"),
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ({"copies": 2}, "`copies` must be 1 without augmentation, got 2"),
        ({"share": (2, 2)}, r"`share` must be .*got \(2, 2\)"),
        ({"share": (0, 2)}, "`gather` must be given for 2 processes"),
        ({"precision": "float16"}, "`precision` must be .*got 'float16'"),
        ({"augmentation": "flop", "copies": 2}, "did you mean 'flip'"),
    ],
)
def test_arguments_are_checked_before_any_image_is_read(options, message):
    backbone = Backbone()
    with pytest.raises(ValueError, match=message):
        features_of(backbone, data(), **options)
    assert not backbone.calls


@pytest.mark.parametrize("stream", [False, True])
def test_a_data_set_of_one_class_is_refused_before_the_backbone_runs(stream):
    dataset = table(images(30, (4, 5, 3)), [1] * 30)
    if stream:
        real = RealData.from_dataset(dataset.to_iterable_dataset(), channels=3, buffer_size=20)
    else:
        real = RealData.from_dataset(dataset)
    backbone = Backbone()
    with pytest.raises(DataError, match="at least two classes, but all 30 are of class 'bee'"):
        features_of(backbone, real)
    assert not backbone.calls


def test_features_of_another_shape_are_named():
    backbone = Backbone()
    backbone.num_features = 7
    with pytest.raises(ValueError, match=r"shape \(64, 7\) for 64 images, got \(64, 5\)"):
        features_of(backbone, data())


def test_features_that_are_not_finite_are_named_by_their_image(tmp_path):
    class Broken(Backbone):
        def forward(self, images):
            values = super().forward(images)
            values[images[:, 0, 0, 0] * 255 > 101.5] = torch.nan  # `images` marks row 102 so
            return values

    with pytest.raises(ValueError, match="features of image 102 are not finite"):
        features_of(Broken(), data(), folder=tmp_path)
    assert list((tmp_path / "features").iterdir()) == []
