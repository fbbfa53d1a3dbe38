"""`dd_plugin.distiller.real_images`: which data set and which split a run reads."""

import json

import numpy as np
import pytest
import torch
from datasets import DatasetDict, Value
from PIL import Image

from dd_plugin import DistilledDataset
from dd_plugin.data import DataError, RealData, load_real
from dd_plugin.data.real.held_out import HeldOut
from dd_plugin.distiller import Distiller
from dd_plugin.distiller.real_images import real_batch_size
from tests.distiller.toy import toy_config, toy_dataset, toy_distiller


def test_images_are_not_tested_on_what_they_were_learned_from(tmp_path):
    splits = DatasetDict(train=toy_dataset(), validation=toy_dataset(30, 1))
    config = toy_config(tmp_path, train_split="validation", eval_split="validation")
    with pytest.raises(ValueError, match="`eval_split` must not be the split that is distilled"):
        Distiller(None, config, splits)
    # Found by itself, it is another one, or held out.
    distiller = Distiller(None, toy_config(tmp_path, train_split="validation"), splits)
    assert (distiller.train_data.count(), distiller.eval_data.count()) == (24, 6)
    alone = {"train_split": "validation", "validation_fraction": 0}
    assert Distiller(None, toy_config(tmp_path, **alone), splits).eval_data is None
    config = toy_config(tmp_path, eval_split="train")
    assert Distiller(None, config, toy_dataset(), splits).eval_split == "train"


def test_a_step_takes_no_more_real_images_than_there_are(tmp_path, caplog):
    def run(**options):
        caplog.clear()
        distiller = toy_distiller(tmp_path, max_steps=2, **options)
        distiller.train()
        said = [text for text in caplog.messages if "real images" in text]
        return distiller.real_batch(0, 0)[1].bincount().tolist(), said, distiller

    shares, said, capped = run(real_batch_size=256)
    # All sixty, each once, as twenty of each of three classes.
    assert shares == [20, 20, 20]
    assert said == [
        "real_batch_size is 256, and there are 60 real images: a step takes all of them once"
    ]
    images, _ = capped.real_batch(0, 0)
    assert len(images.flatten(1).unique(dim=0)) == 60
    shares, said, exact = run(real_batch_size=60)
    assert (shares, said) == ([20, 20, 20], [])
    assert torch.equal(capped.synthetic.images(), exact.synthetic.images())
    assert run(real_batch_size=12)[:2] == ([4, 4, 4], [])


def test_a_stream_does_not_know_how_many_images_there_are(tmp_path):
    config = toy_config(tmp_path, real_batch_size=256)
    stream = RealData.from_dataset(toy_dataset().to_iterable_dataset(), buffer_size=10)
    assert real_batch_size(config, stream) == 256


def test_a_damaged_validation_split_is_not_passed_over(tmp_path):
    damaged = toy_dataset(30, 1).cast_column("label", Value("int64"))
    damaged = damaged.map(lambda row: {"label": -1})
    splits = DatasetDict(train=toy_dataset(), validation=damaged, test=toy_dataset(30, 2))
    with pytest.raises(DataError):
        Distiller(None, toy_config(tmp_path), splits, splits)
    splits.pop("validation")
    assert Distiller(None, toy_config(tmp_path), splits, splits).eval_split == "test"


def test_a_single_split_from_disk_is_what_is_distilled(tmp_path):
    toy_dataset().save_to_disk(tmp_path / "one")
    named = toy_config(tmp_path / "out", dataset=str(tmp_path / "one"), validation_fraction=0)
    distiller = Distiller(config=named)
    assert (distiller.train_split, distiller.eval_split) == ("train", None)
    with pytest.raises(ValueError, match="there is no evaluation data"):
        distiller.evaluate()
    # What is to be tested on has to be said of it, as of other data with `train` only.
    with pytest.raises(DataError, match="there is no split 'test'"):
        Distiller(None, named, toy_dataset(), str(tmp_path / "one"))
    with pytest.raises(DataError, match="there is no split 'dev'"):
        Distiller(config=toy_config(tmp_path / "out", dataset=named.dataset, eval_split="dev"))
    tested = toy_config(tmp_path / "out", eval_split="train")
    for place in (tmp_path / "one", str(tmp_path / "one")):
        assert Distiller(None, tested, toy_dataset(), place).eval_split == "train"


def test_images_are_held_out_where_there_is_no_split_for_evaluation(tmp_path, caplog):
    toy_dataset().save_to_disk(tmp_path / "one")
    named = {"dataset": str(tmp_path / "one")}
    one = Distiller(config=toy_config(tmp_path / "out", **named))
    # A fifth of each class.
    assert one.train_data.class_counts() == [16, 16, 16]
    assert one.eval_data.class_counts() == [4, 4, 4]
    assert (one.train_split, one.eval_split) == ("train", None)
    assert "12 of the 60 images are held out" in caplog.text
    assert _rows(one.train_data).isdisjoint(_rows(one.eval_data))
    assert _rows(one.train_data) | _rows(one.eval_data) == _rows(load_real(named["dataset"]))
    # By the seed alone.
    again = Distiller(config=toy_config(tmp_path / "out", **named))
    other = Distiller(config=toy_config(tmp_path / "out", **named, seed=1))
    assert again.eval_data.fingerprint() == one.eval_data.fingerprint()
    assert other.eval_data.fingerprint() != one.eval_data.fingerprint()
    more = Distiller(config=toy_config(tmp_path / "out", **named, validation_fraction=0.5))
    assert more.eval_data.class_counts() == [10, 10, 10]


def test_images_that_are_passed_are_distilled_unless_a_part_is_asked_for(tmp_path):
    whole = Distiller(None, toy_config(tmp_path), toy_dataset())
    assert (whole.train_data.count(), whole.eval_data) == (60, None)
    part = Distiller(None, toy_config(tmp_path, validation_fraction=0.1), toy_dataset())
    assert (part.train_data.count(), part.eval_data.count()) == (54, 6)


def test_nothing_is_held_out_of_what_a_run_needs(tmp_path, caplog):
    options = {"validation_fraction": 0.5, "images_per_class": 2}
    few = Distiller(None, toy_config(tmp_path, **options), toy_dataset(9))
    assert (few.train_data.class_counts(), few.eval_data.class_counts()) == ([2, 2, 2], [1, 1, 1])
    none = Distiller(None, toy_config(tmp_path, **options), toy_dataset(6))
    assert (none.train_data.class_counts(), none.eval_data) == ([2, 2, 2], None)
    assert "each class needs all of its images" in caplog.text
    stream = RealData.from_dataset(toy_dataset().to_iterable_dataset(), buffer_size=10)
    assert stream.hold_out(HeldOut(0.2, seed=0)) is None


def test_what_was_held_out_is_found_again(tmp_path):
    toy_dataset().save_to_disk(tmp_path / "one")
    config = toy_config(tmp_path / "out", dataset=str(tmp_path / "one"), seed=3, max_steps=1)
    distiller = Distiller(config=config)
    distiller.train()
    distiller.compare()
    distilled = DistilledDataset.from_pretrained(distiller.save_model())
    protocol = json.loads((tmp_path / "out" / "recipe.json").read_text())["protocol"]
    assert protocol["held_out"] == {"fraction": 0.2, "seed": 3, "keep": 1}
    assert (protocol["split"], protocol["images"]) == (None, 12)
    # By its folder, which has no place in the record.
    tested = distilled.real_data(tmp_path / "one")
    assert tested.fingerprint() == distiller.eval_data.fingerprint()
    distilled_part = distilled.real_data(tmp_path / "one", "train")
    assert distilled_part.fingerprint() == distiller.train_data.fingerprint()
    toy_dataset(90).save_to_disk(tmp_path / "other")
    with pytest.raises(DataError, match="held out of 60, and this data set has 90"):
        distilled.real_data(tmp_path / "other")


def test_a_resumed_run_has_the_same_images_held_out(tmp_path):
    toy_dataset().save_to_disk(tmp_path / "one")
    options = {"dataset": str(tmp_path / "one"), "max_steps": 1, "save_steps": 1}
    Distiller(config=toy_config(tmp_path / "out", **options)).train()
    checkpoint = str(tmp_path / "out" / "checkpoint-1")
    resumed = Distiller(config=toy_config(tmp_path / "out", **options))
    assert resumed.train(resume_from_checkpoint=checkpoint).global_step == 1
    whole = toy_config(tmp_path / "out", **options, validation_fraction=0)
    with pytest.raises(ValueError, match=r"other real images \(48 then, 60 now\)"):
        Distiller(config=whole).train(resume_from_checkpoint=checkpoint)


def _rows(data):
    images, _ = next(data.batches(1000))
    return {tuple(row) for row in images.flatten(1).tolist()}


def test_images_of_several_sizes_get_one_by_themselves(tmp_path, caplog):
    _draw(tmp_path / "photos", [(20, 40), (50, 28), (300, 200), (30, 60), (36, 36), (26, 26)])
    named = {"dataset": str(tmp_path / "photos")}
    distiller = Distiller(config=toy_config(tmp_path / "out", **named))
    # 20, 26, 28, 30, 36 and 200 are the shorter sides.
    assert distiller.train_data.shape == distiller.eval_data.shape == (1, 32, 32)
    assert "images differ in size: they are resized to 32 x 32" in caplog.text
    chosen = Distiller(config=toy_config(tmp_path / "out", **named, image_size=12))
    assert chosen.train_data.shape == (1, 12, 12)
    # Large photographs are bounded, and images of one size keep it.
    _draw(tmp_path / "large", [(300, 200), (200, 300), (210, 300), (200, 301)])
    large = toy_config(tmp_path / "out", dataset=str(tmp_path / "large"))
    assert Distiller(config=large).train_data.shape == (1, 64, 64)
    _draw(tmp_path / "alike", [(20, 12)] * 4)
    alike = toy_config(tmp_path / "out", dataset=str(tmp_path / "alike"), model_args={"width": 4})
    assert Distiller(config=alike).train_data.shape == (1, 12, 20)


def _draw(folder, sizes):
    """Gray images of these widths and heights in two classes."""
    for number, size in enumerate(sizes):
        path = folder / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", size, 10 * number).save(path)


def test_test_images_are_scaled_as_the_training_images_were(tmp_path):
    random = np.random.default_rng(0)
    for split, high in (("train", 4095), ("validation", 1000)):
        for number in range(12):
            path = tmp_path / "data" / split / "ab"[number % 2] / f"{number}.tiff"
            path.parent.mkdir(parents=True, exist_ok=True)
            values = random.integers(0, high + 1, (8, 8)).astype(np.uint16)
            Image.fromarray(values).save(path)
    config = toy_config(tmp_path / "run", max_steps=1, dataset=str(tmp_path / "data"))
    distiller = Distiller(None, config)
    assert distiller.train_data.white_level == distiller.eval_data.white_level == 4095
    assert next(distiller.eval_data.batches(12))[0].max() < 0.25
    distiller.train()
    distiller.save_model()
    record = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert record["source"]["white_level"] == 4095
    distilled = DistilledDataset.from_pretrained(tmp_path / "run")
    assert distilled.real_data(tmp_path / "data", "validation").white_level == 4095
