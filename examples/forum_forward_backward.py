"""A `forward` that trains on synthetic images and a `backward` through every training step.

Train mode normalizes with the batch, the running statistics are learned by gradient, eval mode
uses the learned ones, and one call leaks nothing into the next.
"""

import torch
from torch import nn

from dd_plugin import convert_bn
from dd_plugin.bilevel import BilevelProblem, hypergradient

torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
problem = BilevelProblem(convert_bn(nn.Sequential(*model, nn.Linear(288, 2)), "learned"))
real = torch.randn(64, 1, 8, 8)
real_labels = (real.mean((1, 2, 3)) > 0).long()

images = torch.randn(2, 1, 8, 8, requires_grad=True)
log_steps = torch.full((5,), -2.0, requires_grad=True)
statistics = {n: t.clone().requires_grad_() for n, t in problem.model.constants.items()}
leaves = [images, log_steps, *statistics.values()]
optimizer = torch.optim.Adam(leaves, lr=0.05)

for outer_step in range(30):
    result = hypergradient(
        problem,
        batches=[(images, torch.tensor([0, 1]))] * 5,
        outer_batch=(real, real_labels),
        step_size=log_steps.exp(),
        constants=statistics,
        leaves=leaves,
    )
    for leaf, gradient in zip(leaves, result.leaves, strict=True):
        leaf.grad = gradient
    optimizer.step()
    if outer_step % 10 == 9:
        print(f"outer step {outer_step + 1}: loss {float(result.outer_loss):.3f}")
