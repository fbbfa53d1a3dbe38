"""Features: what they are, how they are drawn, kept, read again, and shared out over processes."""

import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from dd_plugin.data import DataError, Normalization, RealData
from dd_plugin.data.augmentation import Augmentation
from dd_plugin.networks import feature_file
from dd_plugin.networks.feature_file import FeatureFile, UnusableFileWarning, read_features
from dd_plugin.networks.features import Features, features_of
from tests.bn.processes import run_on_two
from tests.data.tables import images, table
from tests.repository import ROOT

LABELS = [0, 1, 2, 2, 1, 0, 2]


class Backbone(nn.Module):
    """A stand-in: its features are fixed random projections of the pixels, plus the mean."""

    num_features = 5
    size = (4, 5)
    normalization = Normalization([0.0], [1.0])

    def __init__(self, fingerprint="f" * 64, pixels=60):
        super().__init__()
        self.fingerprint = fingerprint
        weight = torch.randn(5, pixels, generator=torch.Generator().manual_seed(1))
        self.weight = nn.Parameter(weight / 10, requires_grad=False)
        self.calls = []

    def forward(self, images):
        self.calls.append(len(images))
        return images.flatten(1) @ self.weight.T


def data(count=150, max_bytes=2 << 30, seed=0, labels=None, shape=(4, 5, 3)):
    labels = [LABELS[row % 7] for row in range(count)] if labels is None else labels
    return RealData.from_dataset(table(images(count, shape, seed), labels), max_bytes=max_bytes)


def streamed(count=150):
    dataset = table(images(count, (4, 5, 3)), [LABELS[row % 7] for row in range(count)])
    return RealData.from_dataset(dataset.to_iterable_dataset(), channels=3, buffer_size=20)


def expected(real, backbone):
    (pixels, _), *_ = real.batches(len(real))
    return backbone(pixels)


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


def test_further_copies_are_of_augmented_images_that_the_batch_size_does_not_change():
    real = data()
    first = features_of(Backbone(), real, copies=3, augmentation="flip_crop", seed=4)
    plain = features_of(Backbone(), real)
    torch.testing.assert_close(first.values[0], plain.values[0])
    assert not torch.allclose(first.values[1], first.values[0])
    assert not torch.allclose(first.values[1], first.values[2])
    for size in (1, 7, 64, 100, 1000):
        again = features_of(
            Backbone(), real, copies=3, augmentation="flip_crop", seed=4, batch_size=size
        )
        torch.testing.assert_close(again.values, first.values)
    other = features_of(Backbone(), real, copies=3, augmentation="flip_crop", seed=5)
    assert not torch.allclose(first.values[1], other.values[1])


def test_neighbors_in_a_block_and_blocks_differ_in_their_augmentation():
    # Equal images whose features differ were augmented differently.
    real = RealData.from_dataset(
        [(torch.arange(60.0).view(3, 4, 5) / 60, i % 2) for i in range(130)]
    )
    features = features_of(Backbone(), real, copies=2, augmentation="crop_color", batch_size=50)
    assert len(features.values[0].unique(dim=0)) == 1
    assert len(features.values[1].unique(dim=0)) == 130


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


# --- files ----------------------------------------------------------------------------------------


def only_file(folder):
    (path,) = (folder / "features").iterdir()
    return path


def test_the_next_run_on_the_same_data_and_weights_reads_the_file(tmp_path):
    options = {"copies": 2, "augmentation": "flip", "seed": 3, "folder": tmp_path}
    first = features_of(Backbone(), data(), **options)
    path = only_file(tmp_path)
    written = path.stat().st_mtime_ns
    backbone = Backbone()
    second = features_of(backbone, data(max_bytes=100), **options, batch_size=9)
    assert not backbone.calls
    assert torch.equal(first.values, second.values)
    assert torch.equal(first.labels, second.labels)
    assert only_file(tmp_path) == path
    assert path.stat().st_mtime_ns == written
    in_memory = features_of(Backbone(), data(), **options | {"folder": None})
    assert torch.equal(in_memory.values, first.values)


def test_any_safetensors_reader_opens_the_file(tmp_path):
    features = features_of(Backbone(), data(), folder=tmp_path)
    with safe_open(only_file(tmp_path), "pt") as file:
        assert sorted(file.keys()) == ["labels", "values"]
        assert torch.equal(file.get_tensor("values"), features.values)
        assert torch.equal(file.get_tensor("labels"), features.labels)
        assert file.metadata()["key"] == only_file(tmp_path).name.removesuffix(".safetensors")


def test_values_from_a_file_are_memory_mapped(tmp_path):
    features_of(Backbone(), data(), folder=tmp_path)
    features = features_of(Backbone(), data(), folder=tmp_path)
    assert str(only_file(tmp_path)) in Path("/proc/self/maps").read_text()
    assert torch.isfinite(features.values).all()


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": Backbone(fingerprint="0" * 64)},
        {"real": data(seed=1)},
        {"real": data(labels=[LABELS[(row + 1) % 7] for row in range(150)])},
        {"seed": 4},
        {"copies": 3},
        {"augmentation": "crop"},
        {"augmentation": Augmentation("flip", compose=True, fill=0.5)},
        {"precision": "bfloat16"},
    ],
)
def test_other_weights_data_or_settings_have_a_file_of_their_own(tmp_path, change):
    options = {"copies": 2, "augmentation": "flip", "seed": 3, "folder": tmp_path}
    features_of(Backbone(), data(), **options)
    first = only_file(tmp_path)
    change = dict(change)
    backbone, real = change.pop("backbone", Backbone()), change.pop("real", data())
    backbone.calls.clear()
    features_of(backbone, real, **options | change)
    assert backbone.calls
    paths = set((tmp_path / "features").iterdir())
    assert first in paths
    assert len(paths) == 2


def test_a_larger_input_size_of_the_backbone_has_a_file_of_its_own(tmp_path):
    features_of(Backbone(), data(), folder=tmp_path)
    backbone = Backbone()
    backbone.size = (8, 10)
    features_of(backbone, data(), folder=tmp_path)
    assert backbone.calls


def test_plain_images_have_one_file_whatever_the_seed(tmp_path):
    features_of(Backbone(), data(), folder=tmp_path, seed=1)
    backbone = Backbone()
    features_of(backbone, data(), folder=tmp_path, seed=2, augmentation="flip")
    assert not backbone.calls


def flip_a_bit(content, place):
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def damages(content):
    header = int.from_bytes(content[:8], "little")
    yield b""
    yield b"x"
    yield content[:-1]
    yield content[: len(content) // 2]
    yield content + b"\0"
    yield b"not a file of tensors" * 100
    yield flip_a_bit(content, 8 + header)  # the first label
    yield flip_a_bit(content, 8 + header + 150 * 8 + 6)
    yield flip_a_bit(content, len(content) - 1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        yield flip_a_bit(content, int(torch.randint(8, len(content), (), generator=generator)))


def test_a_damaged_file_is_noticed_and_computed_again(tmp_path):
    first = features_of(Backbone(), data())
    features_of(Backbone(), data(), folder=tmp_path)
    path = only_file(tmp_path)
    content = path.read_bytes()
    for damaged in damages(content):
        path.write_bytes(damaged)
        backbone = Backbone()
        with pytest.warns(UnusableFileWarning, match=f"{path.name} cannot be used"):
            again = features_of(backbone, data(), folder=tmp_path)
        assert backbone.calls
        torch.testing.assert_close(again.values, first.values)
        assert only_file(tmp_path).read_bytes() == content


def test_a_file_of_another_run_under_the_name_is_noticed(tmp_path):
    features_of(Backbone(), data(), folder=tmp_path / "one")
    features_of(Backbone(), data(seed=1), folder=tmp_path / "two")
    path = only_file(tmp_path / "one")
    path.write_bytes(only_file(tmp_path / "two").read_bytes())
    with pytest.warns(UnusableFileWarning, match="other data, other weights or other settings"):
        features = features_of(Backbone(), data(), folder=tmp_path / "one")
    torch.testing.assert_close(features.plain(), expected(data(), Backbone()))


def test_a_run_that_is_stopped_leaves_no_file(tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        features_of(Backbone(), data(), folder=tmp_path, on_progress=stop)
    assert list((tmp_path / "features").iterdir()) == []


_WRITER = """
import sys, time
from pathlib import Path
import torch
from dd_plugin.networks.feature_file import FeatureFile
file = FeatureFile(Path(sys.argv[1]), "key", (1, 4, 3), torch.float32, torch.arange(4))
file.write(0, 0, torch.ones(2, 3))
print("written", flush=True)
time.sleep(600)
"""


@pytest.fixture
def writers():
    """Start processes that are half through with a file of features."""
    started = []

    def start(path):
        process = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        started.append(process)
        assert process.stdout.readline() == "written\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_half_written_files_of_killed_processes_are_deleted_and_no_others(tmp_path, writers):
    folder = tmp_path / "features"
    killed = writers(folder / "killed.safetensors")
    at_work = writers(folder / "at_work.safetensors")
    (folder / "notes.txt").touch()

    def partial():
        return sorted(path.name.split(".")[1] for path in folder.glob("*.partial"))

    assert partial() == ["at_work", "killed"]
    features_of(Backbone(), data(), folder=tmp_path)
    assert partial() == ["at_work", "killed"]  # both are being written
    killed.kill()
    killed.wait()
    features_of(Backbone(), data(seed=1), folder=tmp_path)
    assert partial() == ["at_work"]
    at_work.kill()
    at_work.wait()
    features_of(Backbone(), data(seed=2), folder=tmp_path)
    assert partial() == []
    assert (folder / "notes.txt").exists()


def test_without_locks_half_written_files_are_deleted_by_their_age(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", none)
    folder = tmp_path / "features"
    folder.mkdir()
    old = folder / f".{'a' * 64}.safetensors.00000000.partial"
    old.touch()
    features_of(Backbone(), data(), folder=tmp_path)
    assert old.exists()  # its writer may be at work
    monkeypatch.setattr(feature_file, "_ABANDONED", -1.0)
    features_of(Backbone(), data(seed=1), folder=tmp_path)
    assert not old.exists()


def test_a_new_file_that_another_run_deletes_at_once_is_opened_again(tmp_path, monkeypatch):
    """Between its opening and its lock nobody can tell that its writer is alive."""
    flock, partials = feature_file.fcntl.flock, []

    def late(file, operation):
        partials.append(Path(file.name))
        if len(partials) == 1:
            partials[0].unlink()
        flock(file, operation)

    monkeypatch.setattr("fcntl.flock", late)
    features = features_of(Backbone(), data(), folder=tmp_path)
    torch.testing.assert_close(features.plain(), expected(data(), Backbone()))
    assert len(partials) == 2


def test_without_room_on_the_disk_features_are_kept_in_memory(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.warns(UnusableFileWarning, match="No space left.*they are kept in memory"):
        features = features_of(Backbone(), data(), folder=tmp_path)
    torch.testing.assert_close(features.plain(), expected(data(), Backbone()))
    assert list((tmp_path / "features").iterdir()) == []


def test_a_file_in_place_of_the_folder_is_a_warning(tmp_path):
    (tmp_path / "features").touch()
    with pytest.warns(UnusableFileWarning, match="cannot be kept in"):
        features_of(Backbone(), data(), folder=tmp_path)


def test_a_file_with_odd_shapes_reads_as_written(tmp_path):
    for rows, width in ((1, 1), (3, 7), (5, 2)):
        for dtype in (torch.float32, torch.bfloat16):
            values = torch.randn(2, rows, width).to(dtype)
            labels = torch.arange(rows)
            path = tmp_path / f"{rows}-{width}-{dtype}.safetensors"
            file = FeatureFile(path, "key", (2, rows, width), dtype, labels)
            for copy in range(2):
                file.write(copy, 0, values[copy])
            assert not path.exists()
            file.finish()
            file.discard()
            read = read_features(path, "key")
            assert torch.equal(read[0], values)
            assert torch.equal(read[1], labels)


def test_a_missing_file_is_no_warning(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_features(tmp_path / "none.safetensors", "key") is None


# --- processes ------------------------------------------------------------------------------------


def gathered(rank, count, folder):
    """What one of two processes computes."""
    import torch.distributed as dist

    def gather(tensor):
        parts = [torch.empty_like(tensor) for _ in range(2)]
        dist.all_gather(parts, tensor)
        return torch.cat(parts)

    backbone, calls = Backbone(), []
    features = features_of(
        backbone,
        data(count),
        copies=2,
        augmentation="flip_crop",
        batch_size=16,
        folder=folder,
        on_progress=lambda done, total: calls.append((done, total)),
        share=(rank, 2),
        gather=gather,
    )
    return features.values.clone(), features.labels, sum(backbone.calls), calls


@pytest.mark.parametrize("count", [150, 33])
def test_two_processes_share_the_images_and_have_the_same_features(tmp_path, count):
    alone = features_of(Backbone(), data(count), copies=2, augmentation="flip_crop")
    results = run_on_two(gathered, tmp_path, count, None)
    assert sum(images_ for _, _, images_, _ in results) == 2 * count
    for values, labels, _, calls in results:
        torch.testing.assert_close(values, alone.values)
        assert torch.equal(labels, alone.labels)
        assert calls[-1] == (2 * count, 2 * count)
    assert torch.equal(results[0][0], results[1][0])


def test_two_processes_write_one_file_and_read_it(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    first = run_on_two(gathered, tmp_path / "one", 150, tmp_path)
    only_file(tmp_path)
    second = run_on_two(gathered, tmp_path / "two", 150, tmp_path)
    assert [images_ for _, _, images_, _ in second] == [0, 0]
    for values, *_ in [*first, *second]:
        assert torch.equal(values, first[0][0])


@pytest.mark.parametrize("processes", [1, 2, 3, 7, 40])
def test_any_number_of_processes_covers_all_rows(processes):
    """Each process in turn, with the parts of the others taken from features computed alone."""
    real, backbone = data(33), Backbone()
    alone = features_of(backbone, real, batch_size=4)
    length = -(-33 // processes)
    for process in range(processes):
        rounds = iter(range(0, length, 4))

        def gather(tensor, rounds=rounds, process=process):
            if tensor.dim() == 1:
                return tensor.repeat(processes)
            start = next(rounds)
            parts = []
            for other in range(processes):
                part = torch.zeros_like(tensor)
                first = other * length + start
                rows = alone.values[0, first : min(33, first + 4, (other + 1) * length)]
                part[: len(rows)] = rows
                parts.append(part)
            torch.testing.assert_close(parts[process], tensor)
            parts[process] = tensor
            return torch.cat(parts)

        features = features_of(
            backbone, real, batch_size=4, share=(process, processes), gather=gather
        )
        torch.testing.assert_close(features.values, alone.values)


def test_a_file_that_one_process_cannot_read_is_read_by_none(tmp_path):
    features_of(Backbone(), data(), folder=tmp_path)
    backbone = Backbone()
    answers = iter([torch.tensor([1.0, 0.0])])

    def gather(tensor):
        return next(answers, torch.cat([tensor, tensor]))

    features_of(backbone, data(), folder=tmp_path, share=(0, 2), gather=gather)
    assert backbone.calls


def test_the_key_is_a_checksum_and_the_metadata_is_plain(tmp_path):
    features_of(Backbone(), data(), folder=tmp_path)
    path = only_file(tmp_path)
    assert re.fullmatch(r"[0-9a-f]{64}\.safetensors", path.name)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    assert json.loads(content[8 : 8 + length])["__metadata__"]["format"] == "dd_plugin.features.1"
