"""Where features are kept: which runs have a file in common, and memory where there is no file."""

import pytest
import torch

from dd_plugin.data.augmentation import Augmentation
from dd_plugin.networks.feature_file import UnusableFileWarning
from dd_plugin.networks.features import features_of
from tests.networks.stand_ins import LABELS, Backbone, data, expected, only_file


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


class OwnFlip(Augmentation):
    """One of somebody else's that looks like the package's."""

    def __call__(self, images, seed, *, groups=None):
        return 1 - images


def test_copies_by_an_augmentation_of_ones_own_have_no_file(tmp_path):
    options = {"copies": 2, "seed": 3, "folder": tmp_path}
    named = features_of(Backbone(), data(), augmentation="flip", **options)
    path, backbone = only_file(tmp_path), Backbone()
    own = features_of(backbone, data(), augmentation=OwnFlip("flip", compose=True), **options)
    assert backbone.calls
    assert only_file(tmp_path) == path
    torch.testing.assert_close(own.values[0], named.values[0])
    assert not torch.equal(own.values[1], named.values[1])
    # Without copies there is nothing to augment.
    plain = features_of(Backbone(), data(), augmentation=OwnFlip("flip"), **options | {"copies": 1})
    torch.testing.assert_close(plain.values[0], named.values[0])
    assert len(list((tmp_path / "features").iterdir())) == 2


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
