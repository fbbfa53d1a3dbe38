"""`dd_plugin.distiller.losses`: arguments or methods of the user's, and their labels."""

import pytest
import torch
from torch.nn import functional as F

from dd_plugin.distiller import Distiller
from tests.distiller.toy import SHALLOW, toy_config, toy_dataset, toy_distiller


def test_losses_are_arguments_or_methods(tmp_path):
    def mean_square(logits, labels):
        return (logits - (labels[:, None] == torch.arange(3)).float()).square().mean()

    class MeanSquare(Distiller):
        def compute_outer_loss(self, logits, labels):
            return mean_square(logits, labels)

    auto = {"compile": "auto", "model_args": SHALLOW, "max_steps": 2}
    overridden = toy_distiller(tmp_path / "a", kind=MeanSquare, **auto)
    overridden.train()
    config = toy_config(tmp_path / "b", **auto)
    given = Distiller(None, config, toy_dataset(), toy_dataset(30, 1), outer_loss=mean_square)
    given.train()
    assert torch.equal(overridden.synthetic.images(), given.synthetic.images())
    # A loss of one's own need not do the same in every step, so it is not traced unless asked.
    assert (
        overridden.architectures.problems[0].compile
        is given.architectures.problems[0].compile
        is False
    )
    asked = toy_distiller(tmp_path / "d", kind=MeanSquare, **{**auto, "compile": "trace"})
    asked.train()
    assert asked.architectures.problems[0].compile == "trace"
    torch.testing.assert_close(asked.synthetic.images(), given.synthetic.images())
    plain = toy_distiller(tmp_path / "c", **auto)
    assert plain.architectures.problems[0].compile == "trace"
    plain.train()
    assert not torch.equal(overridden.synthetic.images(), plain.synthetic.images())


def test_a_loss_that_does_not_take_its_labels_is_told_before_the_first_step(tmp_path):
    def for_indices(logits, labels):
        return logits.logsumexp(1).mean() - logits.gather(1, labels[:, None]).mean()

    def distiller(folder, **options):
        losses = {k: options.pop(k) for k in ("inner_loss", "outer_loss") if k in options}
        return Distiller(None, toy_config(tmp_path / folder, **options), toy_dataset(), **losses)

    soft = distiller("a", inner_loss=for_indices, soft_labels=True)
    with pytest.raises(ValueError, match=r"the inner loss must take .*\(2, 3\) \(soft_labels=True"):
        soft.train()
    assert soft.state.global_step == 0
    distiller("b", inner_loss=for_indices).train()
    distiller("c", outer_loss=for_indices, soft_labels=True).train()
    many = distiller("d", outer_loss=lambda x, y: F.cross_entropy(x, y, reduction="none"))
    with pytest.raises(ValueError, match=r"outer loss must return one number .*got \(2,\)"):
        many.train()
