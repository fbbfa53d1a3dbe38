"""Tiny models of every kind that a backbone can be, with random weights, and checks of them."""

import timm
import torch
import torch.nn.functional as F
import transformers
from torch import nn

from dd_plugin.data import Normalization

TIMM = {
    "cnn": ("resnet10t", {}),
    "vit": ("vit_tiny_patch16_224", {"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 32}),
    "vit_mean": (
        "vit_tiny_patch16_224",
        {"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 32, "global_pool": "avg"},
    ),
    "conv_classifier": ("resnetv2_50", {"layers": [1, 1, 1, 1], "channels": [16, 32, 48, 64]}),
    "hidden_layer": ("mobilenetv3_small_050", {}),
    "norm_mlp": ("convnext_atto", {"head_hidden_size": 12}),
    "distilled": (
        "deit_tiny_distilled_patch16_224",
        {"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 32},
    ),
    "norm_linear": ("levit_128s", {}),
    "two_widths": ("crossvit_tiny_240", {}),
    "headless": ("resnet10t", {"num_classes": 0}),
}


class ConvolutionalHead(nn.Module):
    """Ends in a 1x1 convolution that is pooled afterwards, as SqueezeNet does."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Conv2d(8, 5, 1)

    def forward(self, images):
        return self.classifier(self.pool(self.body(images))).flatten(1)


def lively(model):
    """Give every BatchNorm statistics and every parameter values that matter."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def timm_model(kind, **changes):
    name, arguments = TIMM[kind]
    arguments = {"num_classes": 5, **arguments, **changes}
    return lively(timm.create_model(name, pretrained=False, **arguments))


_VIT = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
_TEXT = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 50,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_STAGES = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}

# Type -> its configuration, its bare model, its classifier.
HUB = {
    "vit": ("ViTConfig", _VIT, "ViTModel", "ViTForImageClassification"),
    "dinov2": ("Dinov2Config", _VIT, "Dinov2Model", "Dinov2ForImageClassification"),
    "resnet": (
        "ResNetConfig",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
        "ResNetModel",
        "ResNetForImageClassification",
    ),
    "convnext": ("ConvNextConfig", _STAGES, "ConvNextModel", "ConvNextForImageClassification"),
    "swin": (
        "SwinConfig",
        {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2, "image_size": 32},
        "SwinModel",
        "SwinForImageClassification",
    ),
    "poolformer": (
        "PoolFormerConfig",
        _STAGES,
        "PoolFormerModel",
        "PoolFormerForImageClassification",
    ),
    "deit": ("DeiTConfig", _VIT, "DeiTModel", "DeiTForImageClassification"),
    "deit_two_heads": ("DeiTConfig", _VIT, None, "DeiTForImageClassificationWithTeacher"),
    "clip": (
        "CLIPConfig",
        {"text_config": _TEXT, "vision_config": _VIT, "projection_dim": 12},
        "CLIPModel",
        "CLIPForImageClassification",
    ),
    "clip_tower": ("CLIPVisionConfig", _VIT, "CLIPVisionModel", None),
    "clip_projection": (
        "CLIPVisionConfig",
        {**_VIT, "projection_dim": 12},
        "CLIPVisionModelWithProjection",
        None,
    ),
    "siglip": (
        "SiglipConfig",
        {"text_config": _TEXT, "vision_config": _VIT},
        "SiglipModel",
        "SiglipForImageClassification",
    ),
    "siglip_tower": ("SiglipVisionConfig", _VIT, "SiglipVisionModel", None),
    "dinov3": ("DINOv3ViTConfig", _VIT, "DINOv3ViTModel", None),
}


def hub_config(kind):
    name, arguments, _, _ = HUB[kind]
    config = getattr(transformers, name)(**arguments)
    config.num_labels = 5
    return config


def bare_model(kind):
    return lively(getattr(transformers, HUB[kind][2])(hub_config(kind)))


def classifier_model(kind):
    return lively(getattr(transformers, HUB[kind][3])(hub_config(kind)))


def save(model, folder, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)):
    """Save a transformers model and an image processor beside it."""
    model.save_pretrained(folder)
    processor = transformers.ViTImageProcessor(image_mean=list(mean), image_std=list(std))
    processor.save_pretrained(folder)
    return str(folder)


HALF = Normalization([0.5] * 3, [0.5] * 3)


NAMES = ["ant", "bee", "cat"]


def images(size, number=2):
    return torch.rand(number, 3, *size, generator=torch.Generator().manual_seed(3))


def head_for(backbone):
    generator = torch.Generator().manual_seed(4)
    weight = torch.randn(len(NAMES), backbone.num_features, generator=generator)
    return weight, torch.randn(len(NAMES), generator=generator)


def logits_of(model, batch):
    output = model(batch)
    return output if isinstance(output, torch.Tensor) else output.logits


def check_head(backbone):
    """with_head(W, b) gives W f + b, and shares nothing with the backbone."""
    weight, bias = head_for(backbone)
    pixels = images(backbone.size)
    model = backbone.with_head(weight, bias, NAMES)
    expected = F.linear(backbone(pixels), weight, bias)
    actual = logits_of(model, backbone.network_input(pixels))
    assert torch.allclose(actual, expected, rtol=1e-4, atol=1e-4)
    assert not model.training
    assert model.class_names == NAMES
    theirs = {parameter.data_ptr() for parameter in backbone.parameters() if parameter.numel()}
    assert not theirs & {parameter.data_ptr() for parameter in model.parameters()}
    assert any(parameter.requires_grad for parameter in model.parameters())
    return model


def tiny(**changes):
    return timm_model("cnn", **changes)
