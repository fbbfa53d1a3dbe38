"""`dd_plugin.hub.using.training`: any network is trained by the recipe or as usual."""

import shutil
import warnings

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn

from dd_plugin import DistilledDataset
from dd_plugin.bn import converted_layers
from dd_plugin.evaluation import OtherArchitectureWarning
from tests.distiller.toy import toy_dataset
from tests.evaluation.short import shorten
from tests.hub.networks import hf_resnet
from tests.hub.toy import change_tensors, write_toy


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch):
    """As on real images, and not for long."""
    shorten(monkeypatch, 60)


OTHERS = {
    "a name": "timm/test_resnet",
    "a function": hf_resnet,
    "a module": nn.Sequential(nn.Flatten(), nn.Linear(64, 3)),
    "timm": lambda: timm.create_model("test_resnet", in_chans=1, num_classes=3),
}


@pytest.mark.parametrize(("form", "taken"), [("probabilities", True), ("weights", False)])
def test_training_as_usual_takes_learned_probabilities_and_no_weights(tmp_path, form, taken):
    distilled = DistilledDataset.from_pretrained(write_toy(tmp_path, soft_labels=form))
    first = distilled.fit(protocol="standard").state_dict()
    distilled._synthetic.set_targets(distilled.soft_labels.flip(1))
    again = distilled.fit(protocol="standard").state_dict()
    assert any(not torch.equal(first[name], again[name]) for name in first) == taken


def test_fit_gives_an_ordinary_network_that_depends_on_the_seed_alone(distilled):
    state = torch.random.get_rng_state()
    first, again, other = (distilled.fit(seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not first.training
    assert not converted_layers(first)
    weights = [next(network.parameters()) for network in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_8_bit_images_are_others_and_close(distilled):
    networks = [distilled.fit(pixels=pixels) for pixels in ("exact", "png")]
    exact, png = (next(network.parameters()).detach() for network in networks)
    assert 0 < float((exact - png).abs().max()) < 0.1 * float(exact.abs().max())


@pytest.mark.parametrize("protocol", ["recipe", "standard"])
@pytest.mark.parametrize("model", sorted(OTHERS))
def test_any_network_can_be_trained_on_it(distilled, model, protocol):
    made = OTHERS[model]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OtherArchitectureWarning)
        network = distilled.fit(made, protocol=protocol)
    assert not network.training
    assert not converted_layers(network)
    ((images, _),) = distilled.test_batches(distilled.real_data(toy_dataset(30, 1)), 30)
    with torch.no_grad():
        found = network(images)
    found = getattr(found, "logits", found)
    assert found.shape == (30, 3)
    assert bool(found.isfinite().all())
    if isinstance(made, nn.Module):
        assert network is not made
    if protocol == "standard" and model == "a module":
        # Three images, learned by heart. The others have layers that normalise one value of each
        # of three images at the end, whose variance eval mode takes half as large again.
        with torch.no_grad():
            own = network(distilled._synthetic.transform(distilled.images))
        assert getattr(own, "logits", own).argmax(1).tolist() == [0, 1, 2]


def test_what_was_learned_for_another_architecture_is_not_used_in_the_dark(distilled, tmp_path):
    folder = shutil.copytree(distilled.folder, tmp_path / "set")
    tensors = load_file(folder / "tensors.safetensors")
    learned = {n: t + 0.1 for n, t in tensors.items() if n.startswith("constants.")}
    change_tensors(folder, **learned)
    distilled = DistilledDataset.from_pretrained(folder)
    with pytest.warns(OtherArchitectureWarning, match="belongs to timm/dd_convnet"):
        network = distilled.fit(hf_resnet, protocol="recipe")
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    # Taken from the synthetic images: neither the start values nor moving averages.
    assert norms
    assert all(m.momentum == 0.1 for m in norms)
    images = distilled._synthetic.transform(distilled.images)
    first = []
    hook = norms[0].register_forward_pre_hook(lambda module, args: first.append(args[0]))
    with torch.no_grad():
        network(images)
    hook.remove()
    torch.testing.assert_close(norms[0].running_mean, first[0].mean((0, 2, 3)))


def test_another_architecture_trains_as_usual_where_nothing_was_learned(distilled):
    tensors = load_file(distilled.folder / "tensors.safetensors")
    corrections = [t for n, t in tensors.items() if n.startswith("constants.")]
    assert corrections
    assert not any(bool(t.any()) for t in corrections)
    with warnings.catch_warnings():
        warnings.simplefilter("error", OtherArchitectureWarning)
        network = distilled.fit(hf_resnet, protocol="recipe")
    norm = next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    images = distilled._synthetic.transform(distilled.images)
    first = []
    hook = norm.register_forward_pre_hook(lambda module, args: first.append(args[0]))
    with torch.no_grad():
        network(images)
    hook.remove()
    # The moving average of few steps is far from what the images have.
    assert not torch.allclose(norm.running_mean, first[0].mean((0, 2, 3)), rtol=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "best"}, "`protocol` must be"),
        ({"pixels": "jpeg"}, "`pixels` must be"),
        ({"model": "timm/no_such"}, "timm has no architecture"),
    ],
)
def test_wrong_arguments_of_fit(distilled, options, message):
    with pytest.raises(ValueError, match=message):
        distilled.fit(**options)
