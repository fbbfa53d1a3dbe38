"""Frozen networks of a run for heads: names, modules, random weights, and their normalization."""

import pytest
import torch

from dd_plugin import DistilledDataset
from dd_plugin.data import Normalization
from dd_plugin.distiller import Distiller, DistillerConfig
from dd_plugin.networks import BackboneWarning, load_backbone
from tests.distiller.toy import Small, head_distiller, toy_dataset
from tests.hub.networks import saved_network


def unread(*args, **kwargs):
    raise AssertionError("data was read before the network was looked at")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "`model` must be a pretrained network"),
        ({"dataset": "toy"}, "`model` must be a pretrained network"),
        ({"model": "timm/dd_lenet"}, "no weights; give another, such as timm/"),
        ({"model": ["timm/test_resnet", "timm/dd_lenet"]}, "got timm/dd_lenet"),
        ({"model": "timm/no_such_network"}, "timm has no architecture 'no_such_network'"),
        ({"model": "timm/test_vit", "model_args": {"width": 3}}, "`model_args` must be left out"),
        ({"model": "timm/test_vit", "model_args": {"pretrained": "no"}}, "must be true or false"),
    ],
)
def test_a_network_that_cannot_serve_is_told_before_data_is_read(
    tmp_path, monkeypatch, settings, message
):
    monkeypatch.setattr("dd_plugin.distiller.real_images.load_real", unread)
    config = DistillerConfig(trainable="head", output_dir=str(tmp_path / "out"), **settings)
    with pytest.raises(ValueError, match=message):
        Distiller(config=config)


def test_random_weights_follow_from_the_seed_and_nothing_else_moves(tmp_path, caplog):
    def fingerprints(place, seed):
        config = DistillerConfig(
            trainable="head",
            model=["timm/test_resnet", "timm/test_vit"],
            model_args={"pretrained": False},
            image_size=32,
            seed=seed,
            output_dir=str(tmp_path / place),
        )
        before = torch.get_rng_state()
        run = Distiller(None, config, toy_dataset(), toy_dataset(seed=1))
        assert torch.equal(before, torch.get_rng_state())
        return [b.fingerprint for b in run.head.backbones]

    first = fingerprints("a", 0)
    torch.rand(3)
    assert fingerprints("b", 0) == first
    assert not set(fingerprints("c", 1)) & set(first)
    assert "the frozen networks have random weights" in caplog.text


def test_the_normalization_of_the_data_is_that_of_each_backbone(tmp_path):
    run = head_distiller(tmp_path, [Small(3), Small(4)], normalization="data")
    mean, std = run.train_data.mean_std()
    for backbone in run.head.backbones:
        assert (backbone.normalization.mean, backbone.normalization.std) == (mean, std)
    assert run.synthetic.recipe.backbones[0].mean == tuple(mean)


def test_a_module_without_normalization_can_be_given_with_one(tmp_path):
    """As the warning says: a `Backbone`, or a choice of the run."""
    with pytest.warns(BackboneWarning, match="`Distiller` may also have `normalization=none`"):
        head_distiller(tmp_path / "warned", normalization="auto")
    own = Normalization([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    backbone = load_backbone(Small(), feature_layer="norm", normalization=own)
    run = head_distiller(tmp_path / "given", backbone, normalization="auto")
    (noted,) = run.synthetic.recipe.backbones
    assert (noted.mean, noted.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert noted.feature_layer == "norm"
    run.train()
    opened = DistilledDataset.from_pretrained(run.save_model())
    for given in (backbone, Small()):
        again = opened.backbone(given)
        assert again.normalization.mean == own.mean
        assert again.fingerprint == backbone.fingerprint


def test_the_path_of_a_folder_is_no_name_for_others(tmp_path):
    run = head_distiller(tmp_path, saved_network(tmp_path / "network"))
    (noted,) = run.synthetic.recipe.backbones
    assert run.synthetic.recipe.model is noted.model is None
