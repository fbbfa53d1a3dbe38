"""`dd_plugin.distiller.initial_set`: what the images show and how they are stored at first."""

import logging
import math

import pytest
import torch

from dd_plugin.data.colors import decorrelating_basis
from tests.distiller.colored import PYRAMID, colored_distiller
from tests.distiller.toy import toy_distiller


def test_colors_are_those_of_the_training_images(tmp_path):
    distiller = colored_distiller(tmp_path)
    expected = decorrelating_basis(distiller.train_data)
    assert torch.equal(distiller.synthetic.parametrization.basis, expected)
    # The images are gray but for a tint, so the first direction is nearly gray.
    gray = expected[:, 0] / expected[:, 0].norm()
    assert float(gray.min()) > 0.5
    assert (
        colored_distiller(tmp_path / "rgb", color_space="rgb").synthetic.parametrization.basis
        is None
    )


def test_a_color_space_of_gray_images_is_told_to_be_none(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        distiller = toy_distiller(tmp_path, **PYRAMID)
    assert 'color_space="decorrelated" has no effect on images of one channel' in caplog.text
    assert distiller.synthetic.parametrization.basis is None


@pytest.mark.parametrize("step_sizes", ["constant", "per_step"])
def test_a_cosine_is_that_of_usual_training(tmp_path, step_sizes):
    settings = {"inner_schedule": "cosine", "inner_steps": 5, "inner_lr": 0.2}
    synthetic = toy_distiller(tmp_path, step_sizes=step_sizes, **settings).synthetic
    # As torch's own schedule has it.
    parameter = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.SGD([parameter], lr=0.2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5)
    expected = []
    for _ in range(5):
        expected.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    sizes = synthetic.step_sizes().double()
    assert torch.allclose(sizes, torch.tensor(expected, dtype=torch.float64), rtol=1e-6)
    assert synthetic.log_step_sizes.requires_grad == (step_sizes == "per_step")


def test_a_cosine_of_a_pool_takes_its_whole_training(tmp_path):
    settings = {"init": "pool", "pool_max_steps": 8, "window": "last", "window_length": 1}
    settings |= {"inner_schedule": "cosine", "step_sizes": "constant", "inner_lr": 0.2}
    synthetic = toy_distiller(tmp_path, inner_steps=2, **settings).synthetic
    # A network that has had four of the eight steps is in the middle of the cosine.
    size = synthetic.step_size(4, 2).detach()
    assert float(size[0]) == pytest.approx(0.1)
    assert float(size[1]) == pytest.approx(0.1 * (1 - math.sin(math.pi / 8)))


def test_a_cosine_of_step_sizes_per_layer_is_alike_in_all_layers(tmp_path):
    settings = {"inner_schedule": "cosine", "step_sizes": "per_layer", "inner_lr": 0.2}
    sizes = toy_distiller(tmp_path, inner_steps=4, **settings).synthetic.step_sizes().detach()
    assert sizes.shape[0] == 4
    assert sizes.shape[1] > 1
    assert torch.equal(sizes, sizes[:, :1].expand_as(sizes))
    assert float(sizes[2, 0]) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("options", "is_learned"),
    [
        ({}, True),
        ({"step_sizes": "constant"}, False),
        ({"step_sizes": "constant", "statistics_corrections": "learned"}, True),
        ({"step_sizes": "constant", "statistics": "learned"}, True),
        ({"statistics_corrections": "none"}, False),
        ({"statistics_corrections": "none", "networks_per_step": 2, "compile": "trace"}, False),
    ],
    ids=str,
)
def test_corrections_are_those_of_plain_batch_norm_or_learned(tmp_path, options, is_learned):
    distiller = toy_distiller(tmp_path, max_steps=2, **options)
    first = [t.detach().clone() for t in distiller.synthetic.constants().values()]
    distiller.train()
    last = list(distiller.synthetic.constants().values())
    assert first
    assert any(not torch.equal(a, b) for a, b in zip(first, last, strict=True)) == is_learned
    assert bool(distiller.synthetic.leaves()["constants"]) == is_learned
