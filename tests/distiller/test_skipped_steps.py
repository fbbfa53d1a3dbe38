"""Runs whose steps do not count: none of them ends as a success, and none is logged as loss 0."""

import pytest
import torch

from dd_plugin.cli import main
from dd_plugin.distiller import Distiller, NonFiniteError
from tests.distiller.skips import Skips
from tests.distiller.toy import toy_distiller


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("init", ["random", "fixed", "pool"])
def test_a_run_in_which_no_step_counts_fails(tmp_path, steps, init):
    pool = {"window": "last", "window_length": 2, "pool_size": 2} if init == "pool" else {}
    skips = Skips(range(steps))
    distiller = toy_distiller(tmp_path, max_steps=steps, init=init, callbacks=[skips], **pool)
    before = distiller.synthetic.images().detach().clone()
    with pytest.raises(
        NonFiniteError, match=rf"none of the {steps} outer steps .* Lower `inner_lr` \(now 0\.05\)"
    ):
        distiller.train()
    assert torch.equal(before, distiller.synthetic.images())


def test_one_step_that_counts_is_a_run(tmp_path):
    distiller = toy_distiller(tmp_path, max_steps=4, callbacks=[Skips({1})])
    assert distiller.train().skipped_steps == 1
    with pytest.warns(UserWarning, match="3 of 4 outer steps were not finite and left out"):
        toy_distiller(tmp_path / "b", max_steps=4, callbacks=[Skips({0, 1, 3})]).train()


def test_steps_before_a_checkpoint_count(tmp_path):
    toy_distiller(tmp_path, max_steps=2, save_steps=2, lr_scheduler_type="constant").train()
    longer = {"max_steps": 4, "lr_scheduler_type": "constant"}
    resumed = toy_distiller(tmp_path, callbacks=[Skips({2, 3})], **longer)
    assert resumed.train("latest").skipped_steps == 2


def test_the_command_writes_no_set(tmp_path, capsys):
    pytest.importorskip("sklearn")
    words = ["distill", "--output_dir", str(tmp_path / "out"), "--max_steps", "2"]
    words += ["--inner_lr", "1e20", "--inner_steps", "4", "--no_baselines", "--disable_tqdm"]
    assert main(words) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "none of the 2 outer steps was finite" in last
    assert "Lower --inner_lr (now 1e+20)" in last
    assert not (tmp_path / "out" / "recipe.json").exists()


def test_a_step_that_is_not_finite_is_left_out_and_persisting_ends_the_run(tmp_path):
    class Broken(Distiller):
        broken = (1,)

        def real_batch(self, step, index):
            images, labels = super().real_batch(step, index)
            return (images * float("nan") if step in self.broken else images), labels

    distiller = toy_distiller(tmp_path / "a", kind=Broken)
    distiller.train()
    assert distiller.state.skipped_steps == 1
    assert bool(torch.isfinite(distiller.synthetic.images()).all())

    class AllBroken(Broken):
        broken = range(100)

    distiller = toy_distiller(tmp_path / "b", kind=AllBroken, max_skipped_steps=2)
    with pytest.raises(NonFiniteError, match=r"2 outer steps in a row .* Lower `inner_lr`"):
        distiller.train()
