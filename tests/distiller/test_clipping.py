"""Outer gradients are clipped by their own moving norm, each kind of parameter by itself."""

import torch
from torch import nn

from dd_plugin.distiller import Distiller
from dd_plugin.distiller.clipping import clip_by_moving_norm
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


def test_a_kind_of_gradient_that_began_at_zero_still_moves():
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([{"params": [parameter], "name": "images", "lr": 1.0}])
    norms = {}
    parameter.grad = torch.zeros(2)
    clip_by_moving_norm(optimizer, norms, 2.0)
    parameter.grad = torch.ones(2)
    clip_by_moving_norm(optimizer, norms, 2.0)
    assert torch.equal(parameter.grad, torch.ones(2))
