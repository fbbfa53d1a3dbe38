"""Small distilled sets as folders, and a Hub with accounts to push them to."""

from __future__ import annotations

from pathlib import Path

import torch

from dd_plugin.data.parametrization import Pixels
from dd_plugin.data.recipe import Recipe
from dd_plugin.data.synthetic import SyntheticSet
from dd_plugin.data.transforms import Normalization
from dd_plugin.hub.folder import write_set
from tests.hub.repositories import Account

CARD = """---
task_categories:
- image-classification
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*.parquet
---
# A distilled set
"""

ACCOUNTS = {
    "ada-token": Account("ada", orgs={"lab": "write", "club": "read"}),
    "bob-token": Account("bob"),
    "ada-reads": Account("ada", "read"),
    "ada-fine": Account("ada", "fineGrained", scopes={"ada/one": ["repo.write"]}),
}


def synthetic_set(
    count: int = 6,
    seed: int = 0,
    shape: tuple[int, int, int] = (1, 4, 4),
    classes: tuple[str, ...] = ("left", "right", "middle"),
) -> SyntheticSet:
    """Random images, one class after the other."""
    generator = torch.Generator().manual_seed(seed)
    channels = shape[0]
    return SyntheticSet(
        Recipe(shape=shape, class_names=classes, steps=2),
        Pixels(torch.rand(count, *shape, generator=generator)),
        torch.arange(count) % len(classes),
        torch.tensor([0.1, 0.2]),
        transform=Normalization([0.5] * channels, [0.25] * channels),
    )


def set_folder(folder: Path, count: int = 6, seed: int = 0) -> Path:
    """The folder of a distilled set, with a card of our own and things that are not published."""
    write_set(folder, synthetic_set(count, seed))
    (folder / "README.md").write_text(CARD)
    (folder / "checkpoint-3").mkdir(exist_ok=True)
    (folder / "checkpoint-3" / "tensors.safetensors").write_bytes(b"half done")
    (folder / ".hidden").write_text("mine")
    (folder / "notes.txt").write_text("mine")
    return folder
