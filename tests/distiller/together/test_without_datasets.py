"""Arrays and tensors are distilled, saved and used where `datasets` is not installed."""

import sys

from datasets import ClassLabel, Image, List, Value, load_dataset

from tests.processes import finished

_RUN = """
import sys

sys.modules["datasets"] = None  # as if it were not installed

import numpy as np
import torch
from torch.utils.data import TensorDataset

from dd_plugin import DistilledDataset, Distiller, DistillerConfig
from dd_plugin.data import load_real

folder = sys.argv[1]
pixels = torch.randint(0, 256, (60, 3, 8, 8), dtype=torch.uint8)
labels = torch.arange(60) % 3
config = DistillerConfig(
    output_dir=folder,
    model_args={"width": 4, "depth": 2, "norm_layer": "batchnorm2d"},
    max_steps=2,
    inner_steps=2,
    eval_steps=0,
    save_steps=1,
    final_eval_networks=1,
    baselines=False,
    soft_labels=True,
    disable_tqdm=True,
)
arrays = [(image.permute(1, 2, 0).numpy(), int(label)) for image, label in zip(pixels, labels)]
distiller = Distiller(None, config, TensorDataset(pixels, labels), arrays)
distiller.train()
distiller.compare()
distiller.save_model()
distilled = DistilledDataset.from_pretrained(folder)
assert distilled.evaluate(None, arrays, networks=1).accuracies == (
    distiller.results["distilled"].accuracies
)
assert load_real("digits", split="test").num_classes == 10
try:
    load_real("nowhere/nothing")
except ImportError as error:
    assert "needs the package `datasets`" in str(error), error
    assert "TensorDataset" in str(error), error
else:
    raise AssertionError
"""


def test_tensors_and_arrays_need_no_datasets(tmp_path):
    done = finished([sys.executable, "-c", _RUN, str(tmp_path / "set")], timeout=240)
    assert done.returncode == 0, done.stderr
    # What was written there is an ordinary data set here.
    rows = load_dataset(str(tmp_path / "set"), split="train", cache_dir=tmp_path / "cache")
    assert rows.features == {
        "image": Image(),
        "label": ClassLabel(names=["0", "1", "2"]),
        "soft_label": List(Value("float32")),
    }
    assert rows[0]["image"].size == (8, 8)
