"""The plan on paper: operation counts that can be checked by hand, and its file."""

import json

import pytest

from tests.benchmarks import imagenet_plan


def test_counts_of_a_convnet():
    options = {"width": 4, "depth": 1, "norm_layer": "batchnorm2d"}
    found = imagenet_plan.counted("timm/dd_convnet", options, 10, 3, 8)
    # A convolution of 3 to 4 channels on 8x8, and 4 * 4 * 4 inputs to 10 outputs; 2 per product.
    assert found["forward_flops"] == 2 * (8 * 8 * 9 * 3 * 4 + 64 * 10)
    # Kernel, bias, scale and shift, linear layer.
    assert found["weight_bytes"] == 4 * (108 + 4 + 4 + 4 + 640 + 10)
    assert found["activation_bytes"] >= 4 * (2 * 256 + 64 + 10)


def test_plan_is_written_from_measured_factors(tmp_path, monkeypatch):
    peaks = {1: 3e8, 32: 5e8}  # by the number of real images

    asked = []

    def measured(case, rounds, threads):
        asked.append((rounds, threads))
        return {"peak_bytes": peaks[case["real_batch_size"]], "trajectory_bytes": 1e6}

    monkeypatch.setattr(imagenet_plan, "repeated", measured)
    options = ["--rounds", "5", "--threads", "2"]
    imagenet_plan.main(["--json", str(tmp_path / "plan.json"), *options])
    assert asked == [(5, 2)] * len(imagenet_plan.MEASURED)
    made = json.loads((tmp_path / "plan.json").read_text())["rows"]
    assert len(made) == len(imagenet_plan.PLANS) * len(imagenet_plan.LINK)
    for row in made:
        low, high = row["outer_steps_per_hour"]
        # Three times the utilisation, less what reducing takes.
        assert 1 < high / low <= 3
        # Of 10 synthetic images and of 32 real ones.
        assert row["sweep_factor"] / row["outer_factor"] == pytest.approx(299 / 10 / (499 / 32))
        held = max(row["sweep_bytes"], row["outer_bytes"])
        parts = row["trajectory_bytes"] + row["images_bytes"] + held
        assert row["memory_bytes"] == pytest.approx(parts)
        assert row["networks_per_hour"][0] == pytest.approx(row["gpus"] * low)
