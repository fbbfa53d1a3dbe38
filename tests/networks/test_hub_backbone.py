"""transformers models as backbones: classifiers, bare models, CLIP and SigLIP."""

import logging

import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file

from dd_plugin.models import ModelLoadError
from dd_plugin.networks.backbones import load_backbone
from dd_plugin.networks.errors import BackboneError, BackboneWarning
from dd_plugin.networks.feature_networks import FeatureClassifier
from tests.networks.models import HALF, HUB, bare_model, check_head, classifier_model, images, save

CLASSIFIERS = sorted(kind for kind, entry in HUB.items() if entry[3])
BARE_CLASSIFIED = sorted(
    kind
    for kind, entry in HUB.items()
    if entry[2] and entry[3] and kind not in ("clip", "siglip", "deit_two_heads")
)
TOWERS = sorted(kind for kind, entry in HUB.items() if entry[2] and kind not in BARE_CLASSIFIED)


@pytest.fixture(autouse=True)
def _quiet():
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_a_classifiers_own_layer_on_the_features_gives_its_own_logits(kind):
    model = classifier_model(kind)
    backbone = load_backbone(model, normalization=HALF)
    pixels = images(backbone.size)
    with torch.no_grad():
        expected = model(backbone.network_input(pixels)).logits
    features = backbone(pixels)
    head = check_head(backbone)
    assert type(head) is type(model)
    assert head.config.id2label == {0: "ant", 1: "bee", 2: "cat"}
    assert head.config.label2id["cat"] == head.config.num_labels - 1 == 2
    if kind == "deit_two_heads":
        return  # its two heads take two kinds of features; with equal weights, their mean
    last = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)][-1]
    assert last.out_features == 5
    logits = F.linear(features, last.weight, last.bias)
    assert torch.allclose(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", BARE_CLASSIFIED)
def test_a_bare_model_is_pooled_as_its_classifier_pools(kind, tmp_path):
    bare = bare_model(kind)
    backbone = load_backbone(bare, normalization=HALF)
    pixels = images(backbone.size)
    folder = save(bare, tmp_path / "bare")
    from_folder = load_backbone(folder, normalization=HALF)
    assert torch.equal(from_folder(pixels), backbone(pixels))
    assert from_folder.fingerprint == backbone.fingerprint
    assert from_folder.fingerprint == load_backbone(folder, normalization=HALF).fingerprint
    output = bare(backbone.network_input(pixels))
    with torch.no_grad():
        expected = {
            "vit": lambda: output.last_hidden_state[:, 0],
            "deit": lambda: output.last_hidden_state[:, 0],
            "dinov2": lambda: torch.cat(
                [output.last_hidden_state[:, 0], output.last_hidden_state[:, 1:].mean(1)], 1
            ),
            "poolformer": lambda: torch.nn.GroupNorm(1, 16, eps=1e-5)(
                output.last_hidden_state
            ).mean((2, 3)),
        }.get(kind, lambda: output.pooler_output.flatten(1))()
    assert torch.allclose(backbone(pixels), expected, rtol=1e-4, atol=1e-4)
    assert type(check_head(backbone)).__name__ == HUB[kind][3]


@pytest.mark.parametrize("kind", TOWERS)
def test_towers_give_their_image_embedding_or_pooled_output(kind, tmp_path):
    bare = bare_model(kind)
    backbone = load_backbone(bare, normalization=HALF)
    pixels = images(backbone.size)
    batch = backbone.network_input(pixels)
    with torch.no_grad():
        if kind in ("clip", "siglip"):
            expected = bare.get_image_features(pixel_values=batch)
            expected = getattr(expected, "pooler_output", expected)
        else:
            output = bare(pixel_values=batch)
            expected = output.image_embeds if "projection" in kind else output.pooler_output
    assert torch.allclose(backbone(pixels), expected, rtol=1e-4, atol=1e-5)
    assert isinstance(check_head(backbone), FeatureClassifier)
    from_folder = load_backbone(save(bare, tmp_path / "tower"))
    assert from_folder.fingerprint == backbone.fingerprint
    assert not any("text" in name for name in backbone.state_dict())


def test_the_gradient_reaches_the_images_through_fused_attention():
    model = classifier_model("vit").double()
    assert model.config._attn_implementation == "sdpa"
    backbone = load_backbone(model, normalization=HALF, dtype=torch.float64)
    pixels = images((32, 32)).double().requires_grad_()
    (gradient,) = torch.autograd.grad(backbone(pixels).pow(2).sum(), pixels)
    tokens = model.vit(2 * pixels - 1).last_hidden_state
    (expected,) = torch.autograd.grad(tokens[:, 0].pow(2).sum(), pixels)
    assert torch.allclose(gradient, expected, rtol=1e-6, atol=1e-12)


def test_a_folder_gives_normalization_and_the_saved_head_is_no_part_of_the_fingerprint(tmp_path):
    model = classifier_model("convnext")
    folder = save(model, tmp_path / "one")
    backbone = load_backbone(folder)
    assert backbone.normalization.mean == pytest.approx([0.4, 0.5, 0.6])
    assert backbone.name == folder
    with torch.no_grad():
        model.classifier.weight.add_(1)
    assert load_backbone(save(model, tmp_path / "two")).fingerprint == backbone.fingerprint


def test_without_an_image_processor_the_assumption_is_said(tmp_path):
    classifier_model("resnet").save_pretrained(tmp_path)
    with pytest.warns(
        BackboneWarning, match=r"does not say how its input is normalized; mean 0\.5"
    ):
        load_backbone(str(tmp_path))


def test_a_saved_head_comes_back_as_an_ordinary_model(tmp_path):
    backbone = load_backbone(classifier_model("dinov2"), normalization=HALF)
    head = check_head(backbone)
    head.save_pretrained(tmp_path)
    again = transformers.AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    batch = backbone.network_input(images(backbone.size))
    assert torch.equal(again(batch).logits, head(batch).logits)
    assert again.config.id2label[1] == "bee"


def test_a_classifier_saved_without_classes_is_pooled_as_one_with_classes():
    model = classifier_model("vit")
    backbone = load_backbone(model, normalization=HALF)
    config = type(model.config)(**{**model.config.to_dict(), "id2label": None, "num_labels": 0})
    headless = transformers.ViTForImageClassification(config)
    headless.vit.load_state_dict(model.vit.state_dict())
    same = load_backbone(headless, normalization=HALF)
    assert torch.equal(same(images((32, 32))), backbone(images((32, 32))))


def test_a_timm_model_inside_of_transformers_keeps_timms_normalization():
    pretrained = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.6], "input_size": [3, 64, 64]}
    config = transformers.TimmWrapperConfig.from_dict(
        {"architecture": "resnet10t", "num_classes": 5, "pretrained_cfg": pretrained}
    )
    model = transformers.TimmWrapperForImageClassification(config).eval()
    backbone = load_backbone(model)
    assert backbone.normalization.std == pretrained["std"]
    assert backbone.size == (64, 64)
    head = check_head(backbone)
    assert head.timm_model.get_classifier().out_features == 3


def test_weights_missing_from_the_files_are_an_error(tmp_path):
    folder = save(bare_model("vit"), tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    del tensors["layernorm.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(BackboneError, match=r"1 are missing \(the first is 'vit.layernorm.weight'"):
        load_backbone(folder)


def test_damaged_files_are_an_error(tmp_path):
    folder = save(bare_model("vit"), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelLoadError, match="could not make"):
        load_backbone(folder)
    load_backbone(folder, pretrained=False)


def test_models_of_text_are_refused_before_their_weights_are_read(tmp_path):
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    with pytest.raises(BackboneError, match="must be a vision model, got a BertModel"):
        load_backbone(transformers.BertModel(config))
    config.architectures = ["BertModel"]
    config.save_pretrained(tmp_path)  # there are no weights
    with pytest.raises(ModelLoadError, match="must be a vision model, got one of type 'bert'"):
        load_backbone(str(tmp_path))


def test_other_sizes_that_a_grid_does_not_take_are_refused():
    with pytest.raises(BackboneError, match="does not take color images of `image_size` 48x48"):
        load_backbone(classifier_model("vit"), image_size=48, normalization=HALF)
    assert load_backbone(classifier_model("dinov2"), image_size=48, normalization=HALF).size == (
        48,
        48,
    )


def test_models_without_pooled_features_are_refused():
    config = transformers.ViTMAEConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8
    )
    with pytest.raises(BackboneError, match="returns no pooled features"):
        load_backbone(transformers.ViTMAEModel(config), normalization=HALF)


def test_nothing_is_said_of_a_classifier_that_is_not_used(tmp_path):
    folder = save(bare_model("vit"), tmp_path)
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    library = transformers.utils.logging
    library.set_verbosity_warning()
    library.add_handler(handler)
    try:
        load_backbone(folder)
    finally:
        library.remove_handler(handler)
    assert not [record for record in records if "classifier" in record.getMessage()]
    assert library.get_verbosity() == library.WARNING
