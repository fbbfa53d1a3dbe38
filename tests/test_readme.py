"""The README's Python runs as printed, and the files it points to exist."""

import re

import pytest
import torch

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


@pytest.mark.parametrize("code", BLOCKS, ids=range(len(BLOCKS)))
def test_python_block_runs(code, distilled, capsys):
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    if "bn1" in code:
        assert names["model"].bn1.running_mean.isfinite().all()
    else:
        assert all(p.isfinite().all() for p in names["model"].parameters())
        assert capsys.readouterr().out.endswith(" %\n")


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_link_has_a_target(target):
    assert (ROOT / target).exists()
