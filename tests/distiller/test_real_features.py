"""`dd_plugin.distiller.real_features`: copies of training images, and a folder for all runs."""

import pytest
import torch

from dd_plugin.data import Normalization, RealData
from dd_plugin.distiller import DistillerConfig
from dd_plugin.distiller.real_features import RealFeatures
from dd_plugin.networks import load_backbone
from tests.distiller.toy import Small, toy_dataset


@pytest.fixture
def backbone():
    return load_backbone(Small(), normalization=Normalization([0.0] * 3, [1.0] * 3))


def real_features(folder, **settings):
    config = DistillerConfig(
        trainable="head", output_dir=str(folder), disable_tqdm=True, dataset="toy", **settings
    )
    train, evaluation = (
        RealData.from_dataset(toy_dataset(count, seed), channels=3)
        for count, seed in ((12, 0), (30, 1))
    )
    return RealFeatures(config, train, evaluation)


def test_only_the_images_to_distill_have_augmented_copies(tmp_path, backbone):
    real = real_features(tmp_path, feature_copies=3, augmentation="noise")
    train, evaluation = real.of_train(backbone), real.of_evaluation(backbone)
    assert (train.copies, evaluation.copies) == (3, 1)
    for features, images in ((train, real.train), (evaluation, real.evaluation)):
        ((pixels, labels),) = images.batches(30)
        with torch.no_grad():
            torch.testing.assert_close(features.values[0], backbone(pixels))
        assert torch.equal(features.labels, labels)
    assert len(torch.unique(train.values.flatten(1), dim=0)) == 3


def test_runs_that_share_a_folder_compute_features_once(tmp_path, backbone):
    seen = []
    backbone.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    shared = {"feature_dir": str(tmp_path / "shared")}
    first = real_features(tmp_path / "a", **shared).of_train(backbone)
    again = real_features(tmp_path / "b", **shared).of_train(backbone)
    assert seen == [12]
    assert torch.equal(first.values, again.values)
    assert len(list((tmp_path / "shared" / "features").iterdir())) == 1
    # Without such a folder they are beside the set.
    real_features(tmp_path / "c").of_train(backbone)
    assert seen == [12, 12]
    assert len(list((tmp_path / "c" / "features").iterdir())) == 1
