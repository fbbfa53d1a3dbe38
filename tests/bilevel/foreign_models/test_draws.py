"""Where random numbers come from, in a model of the engine and outside."""

import torch
from torch.nn import functional as F

from dd_plugin.bilevel.foreign_models.draws import Draws, drawing_from, predraw
from dd_plugin.bilevel.foreign_models.replay import replayed


def test_draws_do_not_depend_on_layout_and_can_be_made_beforehand():
    x = torch.ones(3, 4, 5)
    with replayed():
        draws = Draws(7)
        with drawing_from(draws):
            a = F.dropout(x, 0.5), torch.rand_like(x), torch.randn(2, 2)
        with drawing_from(Draws(7)):
            b = F.dropout(x.permute(2, 0, 1).contiguous().permute(1, 2, 0), 0.5)
        with drawing_from(Draws(supplied=predraw(draws.specs, 7))):
            c = F.dropout(x, 0.5), torch.rand_like(x), torch.randn(2, 2)
    assert torch.equal(a[0], b)
    assert all(torch.equal(p, q) for p, q in zip(a, c, strict=True))


def test_outside_of_a_model_torch_draws_as_ever():
    torch.manual_seed(1)
    expected = torch.rand(3), F.dropout(torch.ones(5), 0.5), torch.randint(3, (2,))
    torch.manual_seed(1)
    with replayed():
        found = torch.rand(3), F.dropout(torch.ones(5), 0.5), torch.randint(3, (2,))
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert F.dropout.__module__ == "torch.nn.functional"
