"""`tests.benchmarks.window_gradients`: what a window sees of the gradient, on a toy."""

import json
import statistics

import torch

from tests.benchmarks import window_gradients
from tests.distiller.toy import toy_dataset

SMALL = ["--steps", "40", "--width", "3", "--depth", "1", "--networks", "4", "--tested", "3"]
SMALL += ["--images_per_class", "2", "--batch_size", "4", "--real_batch_size", "30"]
SMALL += ["--test_images", "30", "--length", "0.5", "--compile", "no"]


def test_a_row_for_each_window_and_the_whole_training(tmp_path, capsys):
    toy_dataset(60).to_parquet(str(tmp_path / "train.parquet"))
    toy_dataset(30, 1).to_parquet(str(tmp_path / "validation.parquet"))
    out = tmp_path / "out.json"
    command = [str(tmp_path), "--json", str(out), "--windows", "2", *SMALL]
    window_gradients.main(command)
    part, whole = json.loads(out.read_text())["rows"]
    assert (part["window"], whole["window"]) == (2, 40)
    assert statistics.fmean(whole["changes"]) < 0
    for row in (part, whole):
        assert -1 <= row["cosine_of_halves"] <= 1
        assert row["longest_over_median"] >= 1
        assert len(row["changes"]) == len(row["losses_before"]) == 3
    assert "2 of 40 steps: halves" in capsys.readouterr().out
    window_gradients.main(command)
    assert "2 of 40 steps: halves" not in capsys.readouterr().out


def test_a_gradient_far_longer_than_usual_is_clipped():
    gradients = torch.tensor([[3.0, 4.0], [0.0, 5.0], [600.0, 800.0]])
    clipped = window_gradients.clipped(gradients)
    assert torch.equal(clipped[:2], gradients[:2])
    assert torch.allclose(clipped[2], torch.tensor([6.0, 8.0]))
