"""`dd_plugin.distiller.starting_set`: a run that starts from a set keeps what was learned."""

import dataclasses
import json
import shutil
import warnings

import pytest
import torch

from dd_plugin import DistilledDataset, DistillerConfig
from dd_plugin.distiller import Distiller
from dd_plugin.hub.limits import DistilledFormatError
from tests.distiller.toy import (
    CLASSES,
    Small,
    head_distiller,
    toy_config,
    toy_dataset,
    toy_distiller,
)

OLD = ("left", "middle")


def of_classes(names, count=60, seed=0, **options):
    """The toy images of some classes, which are numbered in this order."""
    rows = toy_dataset(count, seed, **options)
    kept = [i for i, label in enumerate(rows["label"]) if CLASSES[label] in names]
    return rows.select(kept)


def small_run(folder, **options):
    """A run on two of the three classes, written into its folder."""
    config = toy_config(folder, max_steps=2, **options)
    distiller = Distiller(None, config, of_classes(OLD), of_classes(OLD, 30, 1))
    distiller.train()
    distiller.save_model()
    return DistilledDataset.from_pretrained(folder)


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    folder = tmp_path_factory.mktemp("old") / "set"
    return small_run(folder, images_per_class=2, soft_labels=True)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("plain") / "set")


def started(folder, start, **options):
    options = {"soft_labels": start.soft_labels is not None, "images_per_class": 2, **options}
    return toy_distiller(folder, start_from=str(start.folder), **options)


def test_what_was_learned_of_the_old_classes_stays(tmp_path, old):
    distiller = started(tmp_path, old, images_per_class=3, inner_steps=5)
    synthetic, fresh = distiller.synthetic, toy_distiller(tmp_path / "f", images_per_class=3)
    assert synthetic.recipe.class_names == CLASSES
    assert synthetic.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    here = [0, 1, 6, 7]
    assert torch.equal(synthetic.images()[here], old.images)
    # The others are the real images that a run without the set begins with.
    rest = [2, 3, 4, 5, 8]
    assert torch.equal(synthetic.images()[rest], fresh.synthetic.images()[rest])
    share = 0.1 / 2
    kept = synthetic.targets()[here]
    assert torch.allclose(kept[:, [0, 2]], old.soft_labels * (1 - share))
    assert torch.allclose(kept[:, 1], torch.tensor(share, dtype=kept.dtype))
    assert torch.allclose(synthetic.targets()[2], torch.tensor([0.9, 0.05, 0.05]).double())
    sizes = old.step_sizes
    assert len(sizes) == 3
    assert torch.allclose(synthetic.step_sizes(), torch.cat([sizes, sizes[2:], sizes[2:]]))
    for name, value in old.synthetic("exact").constants().items():
        assert torch.equal(synthetic.constants()[name], value)
    assert not torch.allclose(sizes, torch.full_like(sizes, 0.05))  # they were learned


def test_the_set_itself_is_what_a_run_without_news_begins_with(tmp_path, old):
    distiller = Distiller(
        None,
        toy_config(tmp_path, images_per_class=2, soft_labels=True, start_from=str(old.folder)),
        of_classes(OLD),
        of_classes(OLD, 30, 1),
    )
    begins = distiller.synthetic
    assert torch.equal(begins.images(), old.images)
    assert torch.equal(begins.labels, old.labels)
    assert torch.allclose(begins.targets(), old.soft_labels)
    assert torch.allclose(begins.step_sizes(), old.step_sizes)


@pytest.mark.parametrize("groups", [1, 2])
def test_images_stay_in_their_groups(tmp_path, groups):
    options = {"images_per_class": 2, "batching": "groups", "groups": groups}
    first = small_run(tmp_path / "first", **options)
    distiller = started(tmp_path / "second", first, **options)
    rows = [i for i, label in enumerate(distiller.synthetic.labels.tolist()) if label != 1]
    assert torch.equal(distiller.synthetic.images()[rows], first.images)


def test_pixels_that_are_stored_smaller_stay_to_the_bit(tmp_path):
    options = {"parametrization": "upsampled"}
    first = small_run(tmp_path / "first", **options)
    distiller = started(tmp_path / "second", first, images_per_class=1, **options)
    rows = distiller.synthetic.labels != 1
    small = first.synthetic("exact").parametrization.stored()
    assert torch.equal(distiller.synthetic.parametrization.stored()[rows], small)
    # Other storage is possible where nothing is lost.
    whole = started(tmp_path / "third", first, images_per_class=4)
    assert torch.equal(whole.synthetic.images()[whole.synthetic.labels != 1], first.images)
    with pytest.raises(ValueError, match=r"at least 4, since .* has 4 images of a class, got 3"):
        started(tmp_path / "x", first, images_per_class=3)
    with pytest.raises(ValueError, match="2 times smaller, which `upsample_factor` 4 would blur"):
        started(tmp_path / "x", first, upsample_factor=4, **options)


def test_a_pyramid_of_stored_pixels_begins_at_them(tmp_path):
    first = small_run(tmp_path / "first", parametrization="upsampled")
    options = {"images_per_class": 1, "parametrization": "upsampled_pyramid"}
    distiller = started(tmp_path / "second", first, **options)
    rows = distiller.synthetic.labels != 1
    shown = distiller.synthetic.parametrization.stored()[rows]
    assert (shown - first.synthetic("exact").parametrization.stored()).abs().max() < 1 / 255
    with pytest.raises(ValueError, match="2 times smaller, which `upsample_factor` 4 would blur"):
        started(tmp_path / "x", first, upsample_factor=4, **options)


def test_a_pyramid_begins_at_the_images(tmp_path, plain):
    distiller = started(tmp_path, plain, images_per_class=1, parametrization="pyramid")
    images = distiller.synthetic.images()[[0, 2]]
    assert (images - plain.images).abs().max() < 1 / 255


def test_the_normalization_stays(tmp_path):
    first = small_run(tmp_path / "first", normalization="data")
    kept = started(tmp_path / "second", first)
    assert kept.transform.metadata() == first.record["transform"]
    message = '`normalization` must be "auto", which keeps the one of .* got "data", which is an'
    with pytest.raises(ValueError, match=message):
        started(tmp_path / "x", first, normalization="data")
    with pytest.raises(ValueError, match=r'got "none", .*mean 0 and std 1'):
        started(tmp_path / "x", first, normalization="none")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images_per_class": 1}, "`images_per_class` must be at least 2, since"),
        ({"soft_labels": False}, "`soft_labels` must be on, since .* would be lost"),
        ({"label_form": "weights"}, '`label_form` must be "probabilities", as .* got "weights"'),
        ({"image_size": 4}, "images of 8 x 8 pixels, the real images have 4 x 4; give `image_size"),
        ({"parametrization": "upsampled"}, "of full size, which `upsample_factor` 2 would blur"),
        ({"step_sizes": "shared"}, '`step_sizes` must be "per_step", as .* got "shared"'),
    ],
)
def test_what_would_be_lost_is_refused(tmp_path, old, options, message):
    with pytest.raises(ValueError, match=message):
        started(tmp_path, old, **options)


def run_on(folder, start, names, rows=None, **more):
    config = toy_config(folder, start_from=str(start.folder), **more)
    return Distiller(None, config, rows or of_classes(names), None)


def test_other_images_and_classes_are_refused(tmp_path, plain):
    with pytest.raises(ValueError, match="has the classes 'middle', of which there are no real"):
        run_on(tmp_path, plain, ("left", "right"))
    colored = toy_dataset().map(lambda row: {"image": row["image"].convert("RGB")})
    with pytest.raises(ValueError, match="of 1 channels, the real images have 3; convert the real"):
        run_on(tmp_path, plain, CLASSES, colored)
    rows = [(row["image"], row["label"]) for row in toy_dataset()]
    named = type("Named", (list,), {"classes": ["left", "Middle ", "middle"]})(rows)
    with pytest.raises(ValueError, match="has the class 'middle' and the real images have 'Middle"):
        run_on(tmp_path, plain, CLASSES, named)


def test_no_set_is_told(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DistilledFormatError, match="is not a distilled set"):
        toy_distiller(tmp_path / "out", start_from=str(tmp_path / "empty"))


def test_step_sizes_of_another_optimizer_begin_anew(tmp_path, plain, caplog):
    distiller = started(tmp_path, plain, inner_optimizer="adam", inner_lr=0.03)
    sizes = distiller.synthetic.step_sizes()
    assert torch.allclose(sizes, torch.full_like(sizes, 0.03))
    assert "are for another optimizer, network or schedule" in caplog.text
    cosine = {"inner_schedule": "cosine", "step_sizes": "constant", "inner_lr": 0.03}
    longer = started(tmp_path / "longer", plain, inner_steps=5, **cosine).synthetic.step_sizes()
    assert longer[-1] < longer[0] == pytest.approx(0.03)
    caplog.clear()
    other = started(tmp_path / "other", plain, **cosine).synthetic.step_sizes()
    assert other[-1] < other[0] == pytest.approx(0.03)
    assert "are for another optimizer, network or schedule" in caplog.text
    falling = small_run(tmp_path / "falling", **cosine)
    same = started(tmp_path / "same", falling, **cosine).synthetic.step_sizes()
    assert torch.allclose(same, falling.step_sizes)
    constant = started(tmp_path / "c", plain, step_sizes="constant")
    assert torch.allclose(constant.synthetic.step_sizes(), plain.step_sizes)
    assert not constant.synthetic.log_step_sizes.requires_grad


def test_corrections_are_taken_over_where_they_are_learned(tmp_path, caplog):
    first = small_run(tmp_path / "first", statistics_lr=0.5)
    learned = first.synthetic("exact").constants()
    assert any(bool(t.any()) for t in learned.values())
    same = started(tmp_path / "same", first).synthetic.constants()
    assert all(torch.equal(same[name], value) for name, value in learned.items())
    assert "corrections of BatchNorm" not in caplog.text
    plain = started(tmp_path / "plain", first, statistics_corrections="none").synthetic.constants()
    assert plain.keys() == learned.keys()
    assert not any(bool(t.any()) for t in plain.values())
    assert "left out, since this run learns none; `statistics_corrections=learned`" in caplog.text


def test_a_step_size_without_effect_is_told(tmp_path, plain, caplog):
    start = started(tmp_path, plain, inner_lr=0.5)
    assert torch.allclose(start.synthetic.step_sizes(), plain.step_sizes)
    assert "`inner_lr` (0.5) has no effect: the step sizes begin as those of" in caplog.text


def test_a_checkpoint_is_told_from_a_set(tmp_path):
    run = toy_distiller(tmp_path / "run", max_steps=1, save_steps=1)
    run.train()
    with pytest.raises(DistilledFormatError, match="checkpoint of a run, and `dd-plugin export`"):
        toy_distiller(tmp_path / "out", start_from=str(tmp_path / "run" / "checkpoint-1"))


def test_each_parameter_keeps_its_step_sizes(tmp_path):
    first = small_run(tmp_path / "first", step_sizes="per_layer")
    second = started(tmp_path / "second", first, step_sizes="per_layer")
    assert torch.allclose(second.synthetic.step_sizes(), first.step_sizes)


def test_heads_start_from_a_set(tmp_path):
    settings = {"trainable": "head", "normalization": "none", "max_steps": 2, "eval_steps": 0}
    settings |= {"save_steps": 0, "output_dir": str(tmp_path / "a"), "disable_tqdm": True}
    first = Distiller(Small(), DistillerConfig(**settings), of_classes(OLD))
    first.train()
    folder = first.save_model()
    second = head_distiller(tmp_path / "b", start_from=str(folder))
    images = DistilledDataset.from_pretrained(folder).images
    assert torch.equal(second.synthetic.images()[[0, 2]], images)


def test_a_resumed_run_is_the_same_without_the_set_that_it_started_from(tmp_path, plain):
    place = tmp_path / "start"
    shutil.copytree(plain.folder, place)
    options = {"start_from": str(place), "soft_labels": True, "save_steps": 2}
    whole = toy_distiller(tmp_path / "whole", **options)
    whole.train()
    half = toy_distiller(tmp_path / "half", **options)
    half.config.max_steps = half.state.max_steps = 4
    half.train()
    shutil.rmtree(tmp_path / "half" / "checkpoint-4")
    shutil.rmtree(place)
    again = toy_distiller(tmp_path / "half", resume_from_checkpoint="latest", **options)
    assert again.train().global_step == 4
    expected, found = whole.synthetic.state_dict(), again.synthetic.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert again.transform.metadata() == whole.transform.metadata()


def test_the_record_names_a_set_of_the_hub_and_no_folder(tmp_path, plain):
    distiller = started(tmp_path, plain, images_per_class=1)
    distiller.save_model()
    assert "start_from" not in json.loads((tmp_path / "recipe.json").read_text())["about"]["config"]
    distiller.config.start_from = "me/set"
    distiller.save_model()
    record = json.loads((tmp_path / "recipe.json").read_text())
    assert record["about"]["config"]["start_from"] == "me/set"


def test_the_setting_is_a_plain_value():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = DistillerConfig(start_from="me/set")
    assert dataclasses.asdict(config)["start_from"] == config.to_dict()["start_from"] == "me/set"
