"""The timm models of the sweep: the cheapest of every family that has BatchNorm, and variants.

A family is a model file of timm (``timm.models.resnet``, ...). `TIMM_FAMILIES` names at least one
architecture of each, with an input size at which the last feature map still has several places;
where a file has blocks of different kinds, more than one. `FAMILIES_WITHOUT_BATCH_NORM` are the
remaining files, so that a file that is new in timm belongs to neither and is noticed.
"""

import functools
from collections.abc import Callable
from typing import Any

import timm
import torch
from timm.layers import convert_splitbn_model, freeze_batch_norm_2d
from timm.layers.evo_norm import EvoNorm2dB0, EvoNorm2dB1, EvoNorm2dB2
from torch import nn

from tests.compatibility.checks import Build

# family -> {architecture: (input size, arguments of create_model)}
TIMM_FAMILIES: dict[str, dict[str, tuple[int, dict[str, Any]]]] = {
    "byoanet": {
        "eca_botnext26ts_256": (64, {"img_size": 64}),
        "lambda_resnet26rpt_256": (64, {"img_size": 64}),
    },
    "byobnet": {
        "test_byobnet": (48, {}),
        "repvgg_a0": (48, {}),
        "gcresnext26ts": (48, {}),
    },
    "convmixer": {"convmixer_768_32": (28, {})},
    "cpubone": {"cpubone_nano": (48, {})},
    "cspnet": {"cs3darknet_focus_s": (48, {}), "darknet17": (48, {})},
    "cspnext": {"cspnext_tiny": (48, {})},
    "densenet": {"densenet121": (48, {})},
    "dla": {"dla46x_c": (64, {})},
    "dpn": {"dpn48b": (48, {})},
    "efficientformer": {"efficientformer_l1": (224, {})},
    "efficientformer_v2": {"efficientformerv2_s0": (128, {"img_size": 128})},
    "efficientnet": {
        "test_efficientnet": (48, {}),
        "mobilenetv2_035": (48, {}),
        "mnasnet_small": (48, {}),
        "semnasnet_050": (48, {}),
        "tinynet_e": (48, {}),
        "mixnet_s": (48, {}),
        "fbnetc_100": (48, {}),
        "efficientnet_b0": (48, {}),
        "tf_efficientnet_b0": (48, {}),
        "efficientnet_es": (48, {}),
    },
    "efficientvim": {"efficientvim_m1": (128, {})},
    "efficientvit_mit": {"efficientvit_b0": (48, {})},
    "efficientvit_msra": {"efficientvit_m0": (128, {"img_size": 128})},
    "fasternet": {"fasternet_t0": (48, {})},
    "fastvit": {"fastvit_t8": (48, {}), "fastvit_sa12": (48, {})},
    "ghostnet": {
        "ghostnet_050": (48, {}),
        "ghostnetv2_100": (48, {}),
        "ghostnetv3_050": (48, {}),
    },
    "hardcorenas": {"hardcorenas_b": (48, {})},
    "hgnet": {"hgnetv2_b0": (48, {}), "hgnet_tiny": (48, {})},
    "hrnet": {"hrnet_w18_small": (64, {})},
    "iformer": {"iformer_t": (128, {})},
    "inception_next": {"inception_next_atto": (48, {})},
    "inception_resnet_v2": {"inception_resnet_v2": (96, {})},
    # The smallest with more than one place at the end. At 91 there is one, and train mode
    # normalises two values per channel: reversing the batch then moves the outputs of the stock
    # models themselves by 3e-9 and 2e-9 in float64, at 107 by 2e-12 and 3e-11.
    "inception_v3": {"inception_v3": (107, {})},
    "inception_v4": {"inception_v4": (107, {})},
    "lcnetv2": {"lcnetv2_small": (48, {})},
    "levit": {
        "levit_128s": (112, {"img_size": 112}),
        "levit_conv_128s": (112, {"img_size": 112}),
    },
    "lowformer": {"lowformer_b0": (48, {})},
    "maxxvit": {
        "test_coatnet": (64, {"img_size": 64}),
        "test_maxvit": (64, {"img_size": 64}),
    },
    "mobilenetv3": {
        "mobilenetv3_small_050": (48, {}),
        "lcnet_035": (48, {}),
        "mobilenetv4_conv_small_035": (48, {}),
        "mobilenetv4_hybrid_medium_075": (64, {}),
    },
    "mobilevit": {"mobilevit_xxs": (64, {}), "mobilevitv2_050": (64, {})},
    "nasnet": {"nasnetalarge": (96, {"num_features": 384})},
    "nextvit": {"nextvit_small": (48, {})},
    "pnasnet": {"pnasnet5large": (96, {})},
    "regnet": {"regnetx_002": (48, {}), "regnety_002": (48, {}), "regnetz_005": (48, {})},
    "repghost": {"repghostnet_050": (48, {})},
    "repvit": {"repvit_m1": (48, {}), "repvit_m0_9": (48, {})},
    "res2net": {"res2next50": (48, {})},
    "resnest": {"resnest14d": (48, {})},
    "resnet": {
        "test_resnet": (48, {}),
        "resnet18": (48, {}),
        "resnet26t": (48, {}),
        "seresnet18": (48, {}),
        "resnetblur18": (48, {}),
    },
    "resnetv2": {"resnetv2_18": (48, {}), "resnetv2_18d": (48, {})},
    "rexnet": {"rexnet_100": (48, {})},
    "selecsls": {"selecsls42": (48, {})},
    "senet": {"legacy_seresnet18": (48, {})},
    "shvit": {"shvit_s1": (128, {})},
    "sknet": {"skresnet18": (48, {})},
    "starnet": {"starnet_s050": (48, {})},
    "swiftformer": {"swiftformer_xs": (48, {})},
    "tiny_vit": {"tiny_vit_5m_224": (224, {})},
    "tresnet": {"tresnet_m": (48, {})},
    "vgg": {"vgg11_bn": (64, {"mlp_ratio": 0.02})},
    "visformer": {"visformer_tiny": (64, {"img_size": 64})},
    "vision_transformer_hybrid": {
        "vit_small_resnet50d_s16_224": (64, {"img_size": 64, "depth": 1}),
    },
    "volo": {"volo_d1_224": (64, {"img_size": 64})},
    "vovnet": {
        "ese_vovnet19b_slim_dw": (48, {}),
    },
    "xception": {"legacy_xception": (96, {})},
    "xception_aligned": {"xception41p": (48, {})},
    "xcit": {"xcit_nano_12_p16_224": (64, {"img_size": 64})},
}

FAMILIES_WITHOUT_BATCH_NORM = frozenset(
    {
        "beit",
        "cait",
        "coat",
        "convit",
        "convnext",
        "crossvit",
        "csatv2",
        "davit",
        "deepseek_vit",
        "deit",
        "edgenext",
        "eva",
        "focalnet",
        "gcvit",
        "gemma4_vit",
        "hiera",
        "hieradet_sam2",
        "mambaout",
        "metaformer",
        "mlp_mixer",
        "mobilenetv5",
        "mvitv2",
        "naflexvit",
        "nest",
        "nfnet",
        "pit",
        "pvt_v2",
        "qwen3_vit",
        "rdnet",
        "sequencer",
        "swin_transformer",
        "swin_transformer_v2",
        "swin_transformer_v2_cr",
        "tnt",
        "twins",
        "vision_transformer",
        "vision_transformer_relpos",
        "vision_transformer_sam",
        "vitamin",
    }
)


def images(size: int, batch: int = 2) -> torch.Tensor:
    """Standard normal images ``(batch, 3, size, size)``, the same each time."""
    generator = torch.Generator().manual_seed(5)
    return torch.randn(batch, 3, size, size, generator=generator)


def build(
    name: str,
    size: int,
    change: Callable[[nn.Module], nn.Module] | None = None,
    batch: int = 2,
    **options: Any,
) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """An architecture of timm, changed by ``change``, and its input."""
    model = timm.create_model(name, num_classes=10, **options)
    if change is not None:
        model = change(model)
    return model, {"x": images(size, batch)}


def _frozen(model: nn.Module) -> nn.Module:
    return freeze_batch_norm_2d(model)


def _without(argument: str, value: Any) -> Callable[[nn.Module], nn.Module]:
    """Each BatchNorm2d made anew with another argument."""

    def change(model: nn.Module) -> nn.Module:
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if type(child) is nn.BatchNorm2d:
                    layer: Any = nn.BatchNorm2d(child.num_features, **{argument: value})
                    setattr(parent, name, layer)
        return model

    return change


def _torchvision_frozen() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    from torchvision.models import resnet50
    from torchvision.ops.misc import FrozenBatchNorm2d

    return resnet50(norm_layer=FrozenBatchNorm2d, num_classes=10), {"x": images(64)}


# Layers that no architecture has as built, but users ask for.
VARIANTS: dict[str, Build] = {
    "test_resnet, SyncBatchNorm": functools.partial(
        build, "test_resnet", 64, nn.SyncBatchNorm.convert_sync_batchnorm
    ),
    "test_efficientnet, SyncBatchNormAct": functools.partial(
        build, "test_efficientnet", 64, timm.layers.convert_sync_batchnorm
    ),
    "test_resnet, SplitBatchNorm2d": functools.partial(
        build, "test_resnet", 64, convert_splitbn_model, batch=4
    ),
    "test_resnet, FrozenBatchNorm2d": functools.partial(build, "test_resnet", 64, _frozen),
    "test_efficientnet, FrozenBatchNormAct2d": functools.partial(
        build, "test_efficientnet", 64, _frozen
    ),
    "resnetv2_18, EvoNorm2dB0": functools.partial(build, "resnetv2_18", 64, norm_layer=EvoNorm2dB0),
    "resnetv2_18, EvoNorm2dB1": functools.partial(build, "resnetv2_18", 64, norm_layer=EvoNorm2dB1),
    "resnetv2_18, EvoNorm2dB2": functools.partial(build, "resnetv2_18", 64, norm_layer=EvoNorm2dB2),
    "test_resnet, affine=False": functools.partial(
        build, "test_resnet", 64, _without("affine", False)
    ),
    "test_resnet, momentum=None": functools.partial(
        build, "test_resnet", 64, _without("momentum", None)
    ),
    "resnet18, features_only": functools.partial(build, "resnet18", 64, features_only=True),
    "torchvision resnet50, FrozenBatchNorm2d": _torchvision_frozen,
}

TIMM_MODELS: dict[str, Build] = {
    f"timm {name}": functools.partial(build, name, size, **options)
    for family in TIMM_FAMILIES.values()
    for name, (size, options) in family.items()
} | {
    name if name.startswith("torchvision") else f"timm {name}": make
    for name, make in VARIANTS.items()
}
