"""`dd_plugin.distiller.real_images`: which data set and which split a run reads."""

import json

import numpy as np
import pytest
import torch
from datasets import DatasetDict, Value
from PIL import Image

from dd_plugin import DistilledDataset
from dd_plugin.data import DataError, RealData
from dd_plugin.distiller import Distiller
from dd_plugin.distiller.real_images import real_batch_size
from tests.distiller.toy import toy_config, toy_dataset, toy_distiller


def test_images_are_not_tested_on_what_they_were_learned_from(tmp_path):
    splits = DatasetDict(train=toy_dataset(), validation=toy_dataset(30, 1))
    config = toy_config(tmp_path, train_split="validation", eval_split="validation")
    with pytest.raises(ValueError, match="`eval_split` must not be the split that is distilled"):
        Distiller(None, config, splits)
    # Found by itself, it is another one, or none.
    distiller = Distiller(None, toy_config(tmp_path, train_split="validation"), splits)
    assert distiller.eval_data is None
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
    named = toy_config(tmp_path / "out", dataset=str(tmp_path / "one"))
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
