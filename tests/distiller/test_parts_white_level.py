"""Images of 12 bits: what is white to the training images is white to all test images."""

import json

import numpy as np
from PIL import Image

from dd_plugin import DistilledDataset
from dd_plugin.distiller import Distiller
from tests.distiller.toy import toy_config


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
