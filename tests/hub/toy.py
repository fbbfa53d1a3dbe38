"""A small distilled set in a folder, and ways to change its files without breaking checksums."""

import hashlib
import json

import torch
from safetensors.torch import load_file, save_file

from dd_plugin import DistilledDataset
from dd_plugin.data import Normalization
from dd_plugin.data.parametrization import Pixels, Upsampled
from dd_plugin.data.recipe import Recipe
from dd_plugin.data.synthetic import SyntheticSet
from dd_plugin.hub.folder import write_set

NAMES = ("left", "right")


def synthetic_set(*, soft_labels=False, constants=None, dtype=torch.float32, factor=1, **recipe):
    torch.manual_seed(0)
    options = {"shape": (1, 8, 8), "class_names": NAMES, "steps": 3, "model": "timm/dd_convnet"}
    options |= {"model_args": {"width": 4, "depth": 1}, **recipe}
    images = torch.rand(4, 1, 8, 8, dtype=dtype)
    return SyntheticSet(
        Recipe(**options),
        Pixels(images) if factor == 1 else Upsampled(images, factor),
        torch.tensor([0, 0, 1, 1]),
        torch.tensor([0.1, 0.2, 0.3], dtype=dtype),
        transform=Normalization([0.5], [0.25]),
        soft_labels=soft_labels,
        constants=constants,
    )


def write_toy(folder, **options):
    results = {"distilled": {"mean": 0.75, "std": 0.05, "accuracies": [0.7, 0.8], "seeds": [1, 2]}}
    write_set(folder, synthetic_set(**options), results=results, about={"config": {"seed": 3}})
    return folder


def change_record(folder, change):
    """Apply a function to the record; it may return another one."""
    path = folder / "recipe.json"
    record = json.loads(path.read_text())
    record = change(record) or record
    path.write_text(json.dumps(record))


def seal(folder):
    """Make the checksums of the record those of the files."""

    def noted(record):
        for name in record["files"]:
            content = (folder / name).read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            record["files"][name] = {"size": len(content), "sha256": digest}

    change_record(folder, noted)


def change_tensors(folder, **new):
    """Replace tensors, or take them away with None, and keep the checksums right."""
    path = folder / "tensors.safetensors"
    tensors = {**load_file(path), **new}
    save_file({n: t.contiguous() for n, t in tensors.items() if t is not None}, path)
    seal(folder)


def with_record(folder, change):
    """The set of a folder, opened after a function has changed its record in place."""

    def changed(record):
        change(record)

    change_record(folder, changed)
    return DistilledDataset.from_pretrained(folder)
