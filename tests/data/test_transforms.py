"""Transforms: closed forms, gradients, back to pixels, and through JSON and tensors unchanged."""

import json
import math

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoImageProcessor,
    ResNetConfig,
    ResNetForImageClassification,
    ViTImageProcessor,
)

from dd_plugin.data.transforms import Normalization, transform_from
from dd_plugin.data.whitening import Whitening
from tests.data.tables import correlated_images, real_data


def stored(transform, tmp_path):
    """The transform after a journey through files."""
    metadata = json.loads(json.dumps(transform.metadata()))
    tensors = transform.to_tensors()
    if tensors:
        save_file(tensors, tmp_path / "transform.safetensors")
        tensors = load_file(tmp_path / "transform.safetensors")
    return transform_from(metadata, tensors)


# --- normalisation ------------------------------------------------------------------------------


def test_normalization_in_closed_form():
    transform = Normalization([0.5, 0.25], [0.5, 0.1])
    x = torch.tensor([1.0, 0.5], dtype=torch.float64).view(1, 2, 1, 1)
    # (1 - 0.5) / 0.5 and (0.5 - 0.25) / 0.1
    assert transform(x).flatten().tolist() == pytest.approx([1.0, 2.5], rel=1e-15)
    torch.testing.assert_close(transform.inverse(transform(x)), x)


def test_normalization_from_data_gives_mean_0_and_deviation_1():
    pixels = (correlated_images() * 255).round() / 255
    transform = Normalization.from_data(real_data(pixels))
    y = transform(pixels)
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(3).double(), atol=1e-7, rtol=0)
    torch.testing.assert_close(y.std((0, 2, 3), correction=0), torch.ones(3).double())


def test_channel_that_never_changes_is_not_divided_by_zero():
    pixels = correlated_images(4)
    pixels[:, 1] = 0.2
    transform = Normalization.from_data(real_data(pixels))
    assert transform.std[1] == pytest.approx(1 / 255)
    assert transform(pixels).isfinite().all()


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ([0.5], [0.5, 0.5], "one value per channel each, got 1 and 2"),
        ([], [], "got 0 and 0"),
        ([0.5], [0.0], "`std` positive"),
        ([0.5], [-1.0], "`std` positive"),
        ([math.nan], [1.0], "`mean` must be finite"),
        ([0.5], [math.inf], "`mean` must be finite"),
    ],
)
def test_values_of_normalization_are_checked(mean, std, message):
    with pytest.raises(ValueError, match=message):
        Normalization(mean, std)


def test_timm_model_says_its_own():
    model = timm.create_model("resnet10t")
    found = Normalization.from_model(model)
    assert (found.mean, found.std) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    model.pretrained_cfg = {**model.pretrained_cfg, "mean": (0.5,) * 3, "std": (0.25,) * 3}
    assert Normalization.from_model(model).std == [0.25] * 3


def test_channels_of_the_model_and_of_the_images():
    model = timm.create_model("resnet10t", in_chans=1)
    # timm keeps the three values: (0.485 + 0.456 + 0.406) / 3 = 0.449.
    found = Normalization.from_model(model, channels=1)
    assert found.mean == pytest.approx([0.449])
    assert found.std == pytest.approx([0.226])
    assert Normalization.from_model(model, channels=4) is None
    model.pretrained_cfg = {"mean": (0.1,), "std": (0.2,)}
    assert Normalization.from_model(model, channels=3).mean == [0.1] * 3


def test_hugging_face_model_with_an_image_processor_beside_it(tmp_path):
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1], num_labels=2)
    ResNetForImageClassification(config).save_pretrained(tmp_path)
    model = ResNetForImageClassification.from_pretrained(tmp_path)
    assert Normalization.from_model(model) is None  # no processor there
    ViTImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]).save_pretrained(
        tmp_path
    )
    found = Normalization.from_model(model)
    assert found.mean == pytest.approx([0.1, 0.2, 0.3])
    assert found.std == pytest.approx([0.4, 0.5, 0.6])
    # Rescaling by 1/127.5 gives 0 to 2, of which 1 is taken: 2x - 1 = (x - 0.5) / 0.5.
    ViTImageProcessor(
        rescale_factor=1 / 127.5, image_mean=[1.0] * 3, image_std=[1.0] * 3
    ).save_pretrained(tmp_path)
    found = Normalization.from_model(model)
    assert found.mean == pytest.approx([0.5] * 3)
    assert found.std == pytest.approx([0.5] * 3)
    ViTImageProcessor(do_normalize=False).save_pretrained(tmp_path)
    found = Normalization.from_model(model, channels=3)
    assert found.mean == [0.0] * 3
    assert found.std == pytest.approx([1.0] * 3)


def test_the_hub_is_asked_for_an_image_processor_on_request_alone(monkeypatch):
    model = ResNetForImageClassification(
        ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1], num_labels=2)
    )
    model.config._name_or_path = "someone/net"

    def on_the_hub_alone(name, *, local_files_only, trust_remote_code, revision):
        # A model that does not say its revision is that of the main branch.
        assert (name, trust_remote_code, revision) == ("someone/net", False, "main")
        if local_files_only:
            raise OSError("not in the cache")
        return ViTImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6])

    monkeypatch.setattr(AutoImageProcessor, "from_pretrained", on_the_hub_alone)
    assert Normalization.from_model(model) is None
    assert Normalization.from_model(model, fetch=True).mean == pytest.approx([0.1, 0.2, 0.3])


def test_models_that_do_not_say():
    assert Normalization.from_model(nn.Linear(2, 2)) is None
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1])
    assert Normalization.from_model(ResNetForImageClassification(config)) is None
    model = timm.create_model("resnet10t")
    model.pretrained_cfg = {}
    assert Normalization.from_model(model) is None


# --- both ---------------------------------------------------------------------------------------


@pytest.fixture(params=["normalization", "whitening"])
def transform(request):
    if request.param == "whitening":
        return Whitening.fit(correlated_images())
    return Normalization([0.4, 0.5, 0.6], [0.2, 0.3, 0.4])


def test_inverse(transform):
    x = correlated_images(seed=1)
    torch.testing.assert_close(transform.inverse(transform(x)), x, atol=1e-9, rtol=0)


def test_gradient_goes_through(transform):
    x = correlated_images(2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(transform, x)
    # Both are affine, so the derivative along d is the difference of images: T(x + d) - T(x).
    d = correlated_images(2, seed=2)
    _, along = torch.func.jvp(transform, (x.detach(),), (d,))
    torch.testing.assert_close(along, transform(x + d) - transform(x))
    torch.testing.assert_close(torch.func.vmap(transform)(x[None].detach())[0], transform(x))


def test_dtype_of_the_images_is_kept(transform):
    assert transform(correlated_images().float()).dtype == torch.float32
    assert transform(correlated_images()).dtype == torch.float64
    assert transform.inverse(correlated_images().float()).dtype == torch.float32


def test_journey_through_files_changes_nothing(transform, tmp_path):
    twin = stored(transform, tmp_path)
    assert type(twin) is type(transform)
    x = correlated_images(seed=1)
    assert torch.equal(twin(x), transform(x))
    assert repr(twin) == repr(transform)
    assert twin.metadata() == transform.metadata()


def test_it_can_be_moved(transform):
    moved = transform.to("cpu")
    assert torch.equal(moved(correlated_images()), transform(correlated_images()))
    elsewhere = transform.to("meta")
    for each, device in ((transform, "cpu"), (elsewhere, "meta")):
        tensors = [value for value in vars(each).values() if isinstance(value, torch.Tensor)]
        assert tensors
        assert all(tensor.device.type == device for tensor in tensors)


@pytest.mark.parametrize("shape", [(2, 1, 4, 5), (4, 5), (2, 5, 3, 4)])
def test_images_of_another_shape_are_refused(transform, shape):
    with pytest.raises(ValueError, match="`images` must be"):
        transform(torch.zeros(shape))
    with pytest.raises(ValueError, match="`images` must be"):
        transform.inverse(torch.zeros(shape))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "`kind` of a transform must be"),
        ({"kind": "blur"}, "got 'blur'"),
        ({"kind": "normalization", "mean": [0.5]}, "damaged: KeyError"),
        ({"kind": "normalization", "mean": 0.5, "std": 0.5}, "damaged: TypeError"),
        ({"kind": "normalization", "mean": ["x"], "std": [1.0]}, "could not convert"),
        ({"kind": "normalization", "mean": [0.5], "std": [0.0]}, "positive"),
        ({"kind": "whitening", "eps": 0.1}, "damaged: KeyError"),
        ({"kind": "whitening", "eps": 0.1, "shape": [1, 4, 1]}, "the shape must be"),
        ({"kind": "whitening", "eps": None, "shape": [1, 2, 2]}, "damaged: TypeError"),
    ],
)
def test_damaged_metadata(metadata, message):
    tensors = {"mean": torch.zeros(1, 2, 2), "std": torch.ones(1), "matrix": torch.eye(4)}
    tensors = tensors if "eps" in metadata and "shape" in metadata else {}
    with pytest.raises(ValueError, match=message):
        transform_from(metadata, tensors)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mean", torch.zeros(4)),
        ("mean", torch.full((1, 2, 2), math.nan)),
        ("std", torch.zeros(1)),
        ("std", torch.ones(2)),
        ("matrix", torch.eye(3)),
        ("matrix", torch.full((4, 4), math.inf)),
    ],
)
def test_damaged_tensors(name, value):
    tensors = {"mean": torch.zeros(1, 2, 2), "std": torch.ones(1), "matrix": torch.eye(4)}
    metadata = {"kind": "whitening", "eps": 0.1, "shape": [1, 2, 2]}
    assert transform_from(metadata, tensors)(torch.ones(1, 1, 2, 2)).tolist() == [[[[1, 1]] * 2]]
    with pytest.raises(ValueError, match="must be"):
        transform_from(metadata, {**tensors, name: value})
