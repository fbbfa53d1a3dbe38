"""The README's Python runs as printed, and the files it points to exist."""

import re
from typing import Any

import pytest
import torch
from torch import nn

from dd_plugin.data import Normalization
from dd_plugin.data.parametrization import Pixels
from dd_plugin.data.recipe import Recipe
from dd_plugin.data.synthetic import SyntheticSet
from dd_plugin.hub import write_set
from tests.repository import ROOT, repository_file

README = repository_file("README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def small_set_of_digits(folder):
    """A set of digits as the first command of README and quickstart leaves one."""
    recipe = Recipe(
        shape=(1, 8, 8),
        class_names=tuple("0123456789"),
        steps=2,
        model="timm/dd_convnet",
        model_args={"width": 4, "depth": 1},
    )
    images, labels = torch.rand(10, 1, 8, 8), torch.arange(10)
    transform = Normalization([0.5], [0.25])
    own = SyntheticSet(recipe, Pixels(images), labels, torch.tensor(0.1), transform=transform)
    write_set(folder, own, protocol={"dataset": "digits", "split": "validation"})


@pytest.fixture
def distilled(tmp_path, monkeypatch):
    """The folder that the README's first command writes to."""
    pytest.importorskip("sklearn", reason="the digits come with the extra demo")
    small_set_of_digits(tmp_path / "distilled")
    monkeypatch.chdir(tmp_path)


def of_a_reader():
    """What the reader of the block about a training loop has."""
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)]
    return {
        "model": nn.Sequential(*layers),
        "images": torch.rand(10, 1, 8, 8, requires_grad=True),
        "labels": torch.arange(10),
        "real_batch": (torch.rand(20, 1, 8, 8), torch.arange(20) % 10),
    }


@pytest.mark.parametrize("code", BLOCKS, ids=range(len(BLOCKS)))
def test_python_block_runs(code, distilled, capsys):
    names: dict[str, Any] = of_a_reader() if "hypergradient" in code else {}
    exec(compile(code, "README.md", "exec"), names)
    if "hypergradient" in code:
        assert names["images"].grad.isfinite().all()
        assert names["images"].grad.any()
    else:
        assert all(p.isfinite().all() for p in names["model"].parameters())
        assert capsys.readouterr().out.endswith(" %\n")


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_link_has_a_target(target):
    assert (ROOT / target).exists()
