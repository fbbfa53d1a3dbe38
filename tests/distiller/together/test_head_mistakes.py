"""What a stranger does wrong with a run for heads is told before any long work, and in words."""

import pytest
import torch
from torch.nn import functional as F

from dd_plugin.distiller import Distiller, DistillerConfig
from tests.distiller.toy import Small, head_distiller, toy_dataset


def unread(*args, **kwargs):
    raise AssertionError("data was read before the network was looked at")


def test_a_list_of_names_takes_the_place_of_the_default_network_with_its_arguments(tmp_path):
    config = DistillerConfig(trainable="head", output_dir=str(tmp_path / "out"))
    assert config.model_args
    assert config.with_model("timm/test_vit", "timm/test_resnet").model_args == {}


def test_augmented_copies_need_an_augmentation():
    with pytest.raises(ValueError, match="`feature_copies` must be 1 without augmentation, got 3"):
        DistillerConfig(trainable="head", feature_copies=3)


@pytest.mark.parametrize("mistake", ["no such checkpoint", "bad loss", "folder of another run"])
def test_no_features_are_computed_for_a_run_that_cannot_begin(tmp_path, monkeypatch, mistake):
    def no_features(*args, **kwargs):
        raise AssertionError("features were computed")

    monkeypatch.setattr("dd_plugin.distiller.real_features.features_of", no_features)
    run, checkpoint = head_distiller(tmp_path), None
    if mistake == "no such checkpoint":
        checkpoint, message = str(tmp_path / "nothing"), "not a checkpoint"
    elif mistake == "bad loss":
        run._outer_loss = lambda logits, labels: F.cross_entropy(logits, labels, reduction="none")
        message = "the outer loss must return one number"
    else:
        run.output_dir.mkdir(exist_ok=True)
        (run.output_dir / "recipe.json").write_text("{}")
        message = "holds"
    with pytest.raises(ValueError, match=message):
        run.train(checkpoint)


@pytest.mark.parametrize("models", [[Small(6), Small(5, seed=7)], [Small(5), Small(6)]])
def test_a_run_goes_on_with_the_weights_that_it_began_with(tmp_path, models):
    run = head_distiller(tmp_path, [Small(6), Small(5)], save_steps=2)
    run.train()
    again = head_distiller(tmp_path, models, save_steps=2)
    with pytest.raises(ValueError, match="frozen networks had other weights or another order"):
        again.train(run.output_dir / "checkpoint-2")


def test_a_run_goes_on_with_smaller_batches(tmp_path):
    run = head_distiller(tmp_path, save_steps=2, dtype="float64")
    run.train()
    again = head_distiller(tmp_path, save_steps=2, dtype="float64", backbone_batch_size=2)
    with pytest.warns(UserWarning, match="goes back to step 2"):
        again.train(run.output_dir / "checkpoint-2")
    torch.testing.assert_close(run.synthetic.images(), again.synthetic.images())


def test_a_shared_step_size_of_an_unrolled_head_is_learned(tmp_path):
    settings = {"head": "unroll", "inner_steps": 3, "dtype": "float64"}
    run = head_distiller(tmp_path / "a", step_sizes="shared", **settings)
    each = head_distiller(tmp_path / "b", step_sizes="per_step", **settings)
    for one in (run, each):
        one.head.prepare()
    found, expected = (
        dict(
            zip(
                (kind for kind, group in one.synthetic.leaves().items() for _ in group),
                one._outer_step.gradient(
                    0, 0, [leaf for group in one.synthetic.leaves().values() for leaf in group]
                ).leaves,
                strict=True,
            )
        )
        for one in (run, each)
    )
    torch.testing.assert_close(found["images"], expected["images"])
    torch.testing.assert_close(found["step_sizes"], expected["step_sizes"].sum())
    run.train()


# --- checks before weights are loaded -------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"augmentation": "flipp"}, "did you mean 'flip'"),
        ({"augmentation": "flip+crop_noise"}, "joined either by"),
        ({"augmentation": "flip", "augmentations_per_step": 300}, "must be at most 256, got 300"),
        (
            {"head": "unroll", "inner_optimizer_args": {"momentumm": 0.9}},
            "`inner_optimizer_args` are not possible for sgd.*momentumm",
        ),
        ({"head": "unroll", "inner_steps": 10**9}, "`inner_steps` must be at most 10,000,000"),
        ({"adam_beta1": 1.0}, "`adam_beta1` must be from 0 to below 1"),
        ({"adam_beta2": -0.1}, "`adam_beta2` must be from 0 to below 1"),
        ({"parametrization": "pyramid", "pyramid_levels": 9, "image_size": 32}, "from 1 to 6"),
        ({"parametrization": "upsampled", "image_size": 33}, "must divide the size of the images"),
        ({"load_best_model_at_end": True, "eval_split": "test"}, "Give a validation split"),
        ({"resume_from_checkpoint": "latest"}, "holds no checkpoint to resume from"),
        ({"resume_from_checkpoint": "nowhere"}, "is not a checkpoint that can be read"),
        ({"report_to": ["tensorbord"]}, "tensorbord"),
    ],
)
def test_settings_are_checked_before_anything_is_loaded(tmp_path, monkeypatch, settings, message):
    def load(*args, **kwargs):
        raise AssertionError("weights were loaded before the settings were looked at")

    monkeypatch.setattr("dd_plugin.distiller.head_backbones.load_backbone", load)
    monkeypatch.setattr("dd_plugin.distiller.real_images.load_real", unread)
    with pytest.raises(ValueError, match=message):
        head_distiller(tmp_path, "timm/test_resnet", **settings)


def test_callbacks_are_checked_before_anything_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("dd_plugin.distiller.parts.load_backbones", unread)
    config = DistillerConfig(trainable="head", output_dir=str(tmp_path / "out"))
    with pytest.raises(TypeError, match="must be of DistillerCallback"):
        Distiller(Small(), config, toy_dataset(), callbacks=[print])
