"""What images of a head are learned by instead of its loss: matched gradients."""

import pytest
import torch

from dd_plugin.distiller.objectives import GradientMatching
from tests.distiller.toy import head_distiller


@pytest.mark.parametrize("soft", [False, True])
def test_gradient_matching_has_the_gradient_of_its_value(soft):
    torch.manual_seed(0)
    f, real = torch.randn(3, 5).double(), torch.randn(8, 5).double()
    y = torch.randn(3, 3).double().softmax(1) if soft else torch.arange(3)
    seen = real, torch.arange(8) % 3

    def value(f, y):
        return GradientMatching().gradient(
            f, y, seen, num_classes=3, step_sizes=torch.tensor(1.0), constants={}, seed=4
        )

    found = value(f, y)
    for t, slope in ((f, found.features), *(((y, found.targets),) if soft else ())):
        direction = torch.randn_like(t)
        moved = [t + e * direction for e in (1e-6, -1e-6)]
        losses = [value(m, y).loss if t is f else value(f, m).loss for m in moved]
        numeric = (losses[0] - losses[1]) / 2e-6
        assert abs(numeric - (slope * direction).sum()) < 1e-7
    same = GradientMatching().gradient(
        real, seen[1], seen, num_classes=3, step_sizes=torch.tensor(1.0), constants={}, seed=4
    )
    assert same.loss.abs() < 1e-12


def test_gradient_matching_runs_and_its_step_sizes_stay(tmp_path):
    run = head_distiller(tmp_path, objective="gradient_matching")
    before = run.synthetic.images().detach().clone()
    constants = {name: t.detach().clone() for name, t in run.synthetic.constants().items()}
    run.train()
    assert not torch.equal(run.synthetic.images().detach(), before)
    for name, t in run.synthetic.constants().items():
        assert torch.equal(t.detach(), constants[name])
