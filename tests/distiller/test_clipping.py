"""Outer gradients are clipped by their own moving norm, each kind of parameter by itself."""

import torch
from torch import nn

from dd_plugin.distiller import Distiller
from dd_plugin.distiller.clipping import clip_by_moving_norm, gradient_norms
from tests.distiller.toy import toy_distiller


def test_gradients_far_over_their_moving_norm_are_clipped(tmp_path):
    class Spiky(Distiller):
        def compute_outer_loss(self, logits, labels):
            scale = 1e6 if self.state.global_step == 2 else 1.0
            return super().compute_outer_loss(logits, labels) * scale

    distiller = toy_distiller(tmp_path, kind=Spiky, max_grad_norm=2.0, logging_steps=1)
    distiller.train()
    norms = [line["grad_norm_images"] for line in distiller.state.log_history]
    # One step counts for a twentieth: at most 0.95 + 0.05 * 2 times what it was.
    assert norms[2] <= norms[1] * 1.05 + 1e-12


def clip(optimizer, moving_norms, limit=2.0):
    norms = {name: float(norm) for name, norm in gradient_norms(optimizer).items()}
    clip_by_moving_norm(optimizer, norms, moving_norms, limit)
    return norms


def test_each_group_has_its_norm_and_those_without_gradient_are_left_out():
    a, b, c = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    optimizer = torch.optim.SGD(
        [
            {"params": [a, b], "name": "images", "lr": 1.0},
            {"params": [c], "name": "labels", "lr": 1.0},
        ]
    )
    a.grad, b.grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    moving = {"images": 1.0, "labels": 1.0}
    assert clip(optimizer, moving) == {"images": 5.0}
    assert torch.equal(torch.cat([a.grad, b.grad]), torch.tensor([1.2, 0, 0, 1.6]))
    assert moving == {"images": 0.95 + 0.05 * 2, "labels": 1.0}


def test_a_kind_of_gradient_that_began_at_zero_still_moves():
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([{"params": [parameter], "name": "images", "lr": 1.0}])
    norms = {}
    parameter.grad = torch.zeros(2)
    clip(optimizer, norms)
    parameter.grad = torch.ones(2)
    clip(optimizer, norms)
    assert torch.equal(parameter.grad, torch.ones(2))
