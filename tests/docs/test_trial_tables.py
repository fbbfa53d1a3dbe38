"""The tables of comparisons at equal seconds, from small files."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ABOUT = {"torch": "2.15", "hardware": "two CPU cores"}


@pytest.fixture
def trials(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return importlib.import_module("rendering.trials")


def test_a_line_of_transfer_is_a_set_and_takes_its_seeds_together(trials):
    rows = [
        {"set": "random", "seed": 0, "network": "convnet", "accuracies": [0.2, 0.4]},
        {"set": "random", "seed": 0, "network": "vit", "accuracies": [0.25]},
        {"set": "plain", "seed": 0, "network": "convnet", "accuracies": [0.5]},
        {"set": "plain", "seed": 1, "network": "convnet", "accuracies": [0.7]},
    ]
    text = trials.transfer({**ABOUT, "rows": rows})
    assert "| set | seeds | ConvNet, its own | ViT |" in text
    assert "| random | 1 | 30.0 ± 14.1 % | 25.0 % |" in text
    assert "| plain | 2 | 60.0 ± 14.1 % |  |" in text
    assert text.endswith("two CPU cores, torch 2.15.")


def test_a_line_of_changes_names_the_settings(trials):
    changes = '{"window": "random", "model_args": {"width": 64}}'
    rows = [
        {"changes": "{}", "outer_steps": 1191, "accuracies": [0.45]},
        {"changes": changes, "outer_steps": 7, "accuracies": [0.5, 0.6]},
    ]
    text = trials.recipe_changes({**ABOUT, "rows": rows})
    assert "| nothing | 1,191 | 45.0 % |" in text
    assert "| `window` random, `model_args` width 64 | 7 | 55.0 ± 7.1 % |" in text


def test_a_line_of_gradients_is_a_window_or_the_whole_training(trials):
    row = {"data": "mnist", "steps": 200, "longest_over_median": 2.04, "seconds": 3.04}
    rows = [
        {**row, "window": 15, "cosine_of_halves": 0.051, "changes": [0.01, 0.03]},
        {**row, "window": 200, "cosine_of_halves": 1.0, "changes": [-0.02]},
    ]
    text = trials.window_gradients({**ABOUT, "rows": rows})
    assert "| mnist | 15 of 200 | 3.0 | 0.05 | 2.0 | +0.020 ± 0.014 |" in text
    assert "| mnist | all 200 steps | 3.0 | 1.00 | 2.0 | -0.020 ± 0.000 |" in text
