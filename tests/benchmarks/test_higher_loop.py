"""The comparison with `higher`, at toy size: gradients agree where they have to, and the file."""

import json

import pytest
import torch

from tests.benchmarks import higher_loop

TOY = {"inner_steps": 2, "model_args": {"width": 2, "depth": 2, "norm_layer": "instancenorm2d"}}


@pytest.mark.parametrize("norm", ["instancenorm2d", "batchnorm2d"])
def test_gradients_agree_where_nothing_is_detached(tmp_path, norm):
    pytest.importorskip("higher")
    options = {**TOY, "model_args": {**TOY["model_args"], "norm_layer": norm}}
    case = {"tool": "dd_plugin, traced", "options": options, "float64": True, "real_batch_size": 20}
    distiller = higher_loop.make(str(tmp_path), case)
    ours = higher_loop.gradient_of_trainer(distiller)
    theirs = higher_loop.gradient_of_higher(distiller)
    errors = [float((a - b).norm() / b.norm()) for a, b in zip(ours, theirs, strict=True)]
    if norm == "batchnorm2d":  # `higher` holds the statistics
        assert max(errors) > 1e-3
    else:
        assert max(errors) < 1e-9
    before = distiller.synthetic.images().clone()
    higher_loop.step_of_higher(distiller)
    assert not torch.equal(before, distiller.synthetic.images())


def test_comparison_writes_its_file(tmp_path, monkeypatch):
    class Child:
        """Its answers, without a process."""

        def __init__(self, case, options, folder):
            self.case, self.error, self.about = case, "", {"warm_up_seconds": 1.0}
            self.gradient, self.rounds = folder / "gradient.pt", {}
            torch.save(torch.ones(5), self.gradient)

        def run(self, number):
            seconds = (2.0 if self.case["tool"] == "higher" else 1.0) * (1 + number)
            self.rounds[number] = {"seconds": seconds, "peak_bytes": 7}

        def stop(self):
            pass

    monkeypatch.setattr(higher_loop, "Child", Child)
    monkeypatch.setattr(higher_loop, "SETTINGS", {"toy": TOY})
    higher_loop.main(["--json", str(tmp_path / "higher.json"), "--repeats", "3"])
    rows = {r["tool"]: r for r in json.loads((tmp_path / "higher.json").read_text())["rows"]}
    # Seconds 1, 2, 3 against 2, 4, 6.
    assert rows["dd_plugin, traced"]["ratio_to_higher"] == 0.5
    assert rows["dd_plugin, traced"]["steps_per_second"] == 0.5
    assert rows["dd_plugin, traced"]["error_in_float64"] == {"images": 0.0, "step_sizes": 0.0}
    assert rows["higher"]["ratio_to_higher"] == 1.0
