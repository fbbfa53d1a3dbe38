"""The settings of plain training: inner training is then what torch's AdamW and cosine do."""

import pytest
import torch

from dd_plugin import DistilledDataset
from dd_plugin.evaluation.ordinary import train_on_real
from dd_plugin.models import load_model
from dd_plugin.seeds import seeded_generators
from tests.distiller.toy import toy_distiller

STEPS = 7
PLAIN = {
    "inner_optimizer": "adamw",
    "inner_lr": 2e-3,
    "inner_schedule": "cosine",
    "step_sizes": "constant",
    "batching": "minibatches",
    "batch_size": 4,
    "images_per_class": 2,
}
POOL = {"init": "pool", "pool_size": 1, "pool_max_steps": STEPS}
POOL |= {"window": "random", "window_length": 2}


def _trained_by_recipe(distiller, start, first, steps):
    """Weights after some steps of the recipe, by the optimizer of the recipe."""
    synthetic = distiller.synthetic
    optimizer = synthetic.recipe.make_optimizer()
    weights = {"w": start.clone()}
    state = optimizer.init(weights)
    sizes = synthetic.step_size(first, steps).detach()
    for size in sizes:
        weights, state = optimizer.update({"w": 2 * weights["w"] - 1}, state, weights, size)
    return weights["w"]


class _Weights(torch.nn.Module):
    """A model of three weights, whose loss has the gradient 2 w - 1."""

    def __init__(self, start):
        super().__init__()
        self.w = torch.nn.Parameter(start.clone())

    def forward(self, images):
        return images


def test_the_recipe_is_plain_training(tmp_path, monkeypatch):
    distiller = toy_distiller(tmp_path, inner_steps=STEPS, **PLAIN)
    start = torch.tensor([0.3, -2.0, 0.9], dtype=torch.float64)
    model = _Weights(start)
    monkeypatch.setattr(
        "dd_plugin.evaluation.ordinary._loss",
        lambda network, *_: (network.w.square() - network.w).sum(),
    )
    # By default as the recipe: from 2e-3 along a cosine, with a weight decay of 0.01.
    train_on_real(model, lambda step: (start, start), STEPS)
    by_recipe = _trained_by_recipe(distiller, start, 0, STEPS)
    assert torch.allclose(by_recipe, model.w.detach(), rtol=1e-12, atol=0)
    assert not torch.allclose(by_recipe, start, atol=1e-3)


def test_a_pool_takes_the_step_sizes_of_its_place_in_the_training(tmp_path):
    whole = toy_distiller(tmp_path / "a", inner_steps=STEPS, **PLAIN).synthetic
    pool = toy_distiller(tmp_path / "b", inner_steps=3, **PLAIN, **POOL).synthetic
    assert torch.equal(pool.step_size(4, 3), whole.step_size()[4:])


@pytest.mark.parametrize("more", [{}, POOL], ids=["from the start", "pool"])
def test_several_widths_learn_one_set_by_plain_training(tmp_path, more):
    arguments = [
        {"width": width, "depth": 1, "norm_layer": norm}
        for width, norm in ((3, "batchnorm2d"), (4, "instancenorm2d"))
    ]
    distiller = toy_distiller(
        tmp_path,
        model=["timm/dd_convnet"] * 2,
        model_args=arguments,
        parametrization="pyramid",
        augmentation="flip+shift",
        augmentations_per_step=2,
        inner_steps=3,
        **PLAIN,
        **more,
    )
    before = distiller.synthetic.images().detach().clone()
    state = distiller.train()
    assert state.skipped_steps == 0
    images = distiller.synthetic.images().detach()
    assert not torch.equal(images, before)
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1
    assert list(distiller.synthetic.recipe.network_labels) == [
        "timm/dd_convnet:1",
        "timm/dd_convnet:2",
    ]
    # Nothing is learned beside the images.
    kinds = [kind for kind, leaves in distiller.synthetic.leaves().items() if leaves]
    assert kinds == ["images"]
    assert not distiller.synthetic.log_step_sizes.requires_grad
    assert distiller.synthetic.learned_labels is None


def test_a_network_is_what_stock_layers_and_torchs_optimizer_make_of_it(tmp_path):
    distiller = toy_distiller(tmp_path, inner_steps=STEPS, **PLAIN)
    distiller.train()
    distilled = DistilledDataset.from_pretrained(distiller.save_model())
    network = distilled.fit(seed=5)

    synthetic = distilled.synthetic("exact")
    record = synthetic.recipe
    with seeded_generators(5):
        model = load_model(record.model, num_classes=3, in_chans=1, img_size=8, **record.model_args)
    model.double()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for step in range(STEPS):
        images, labels = synthetic.batch(step, 5)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        scheduler.step()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], tensor, rtol=1e-6, atol=1e-9)
