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


def synthetic_set(count: int = 6, seed: int = 0, size: int = 4) -> SyntheticSet:
    """Random gray images of three classes."""
    generator = torch.Generator().manual_seed(seed)
    recipe = Recipe(shape=(1, size, size), class_names=("left", "right", "middle"), steps=2)
    return SyntheticSet(
        recipe,
        Pixels(torch.rand(count, 1, size, size, generator=generator)),
        torch.arange(count) % 3,
        torch.tensor([0.1, 0.2]),
        transform=Normalization([0.5], [0.25]),
    )


def set_folder(folder: Path, count: int = 6, seed: int = 0, size: int = 4) -> Path:
    """The folder of a distilled set, with a card of our own and things that are not published."""
    write_set(folder, synthetic_set(count, seed, size))
    (folder / "README.md").write_text(CARD)
    (folder / "checkpoint-3").mkdir(exist_ok=True)
    (folder / "checkpoint-3" / "tensors.safetensors").write_bytes(b"half done")
    (folder / ".hidden").write_text("mine")
    (folder / "notes.txt").write_text("mine")
    return folder
