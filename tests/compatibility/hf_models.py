"""The transformers vision classes with BatchNorm-type layers, each as a builder of a tiny model.

`HF_MODELS` maps a class name (and after a slash a variant) to a function that returns a fresh
model with random weights and keyword inputs for it. `LEFT_OUT` says which model types are not
there although their sources mention BatchNorm, and why. Importing this imports no transformers;
the configurations are in `hf_configs.py`, the sweep over the zoo runs the models.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.compatibility import hf_configs as c
from tests.compatibility.hf_configs import Inputs, Tiny, captioned, images, tokens


def _pairs(size: int) -> Callable[[], Inputs]:
    """Two pairs of images for a matcher."""
    return lambda: {"pixel_values": torch.rand(2, 2, 3, size, size)}


def _tasks_and_classes() -> Inputs:
    """Two images, each with a task and a class in words."""
    task, one_class = tokens(), tokens()
    return images(64)() | {
        "tasks_input_ids": task["input_ids"],
        "tasks_attention_mask": task["attention_mask"],
        "classes_input_ids": one_class["input_ids"],
        "classes_attention_mask": one_class["attention_mask"],
        "classes_structure": torch.tensor([1, 1]),
    }


def _oneformer_inputs() -> Inputs:
    return images(32)() | {"task_inputs": torch.randint(3, 16, (2, 6))}


def _tvp_inputs() -> Inputs:
    """One video of two frames: transformers' model takes no larger batch."""
    return {k: v[:1] for k, v in tokens().items()} | {"pixel_values": torch.randn(1, 2, 3, 64, 64)}


_THREE = {"num_labels": 3}
_OUT = {"out_features": c.STAGES}
_UPER = {"hidden_size": 8, "pool_scales": [1, 2], "auxiliary_channels": 4, "num_labels": 3}
_HEADS = {
    "out_indices": [1, 2, 3, 4],
    "num_hidden_layers": 4,
    "pool_scales": [1, 2],
    "auxiliary_channels": 4,
    "num_labels": 3,
}

_CLASSIFIERS = {
    "CvtForImageClassification": Tiny(
        {"embed_dim": [4, 8, 8], "num_heads": [1, 1, 1], "depth": [1, 2, 3], "num_labels": 3},
        images(),
    ),
    "EfficientNetForImageClassification": Tiny(c.EFFICIENTNET | _THREE, images()),
    "HGNetV2ForImageClassification": Tiny(c.HGNET | _THREE, images()),
    "LevitForImageClassification": Tiny(c.LEVIT, images(64)),
    "LevitForImageClassificationWithTeacher": Tiny(c.LEVIT, images(64)),
    "MobileNetV1ForImageClassification": Tiny(c.MOBILENET, images()),
    "MobileNetV2ForImageClassification": Tiny(c.MOBILENET, images()),
    "MobileViTForImageClassification": Tiny(c.MOBILEVIT, images()),
    "MobileViTV2ForImageClassification": Tiny(c.MOBILEVIT_V2, images(64)),
    "PerceiverForImageClassificationConvProcessing": Tiny(c.PERCEIVER, images()),
    "PPLCNetForImageClassification": Tiny(c.LCNET | {"class_expand": 16} | _THREE, images()),
    "RegNetForImageClassification": Tiny(
        {
            "embedding_size": 4,
            "hidden_sizes": [4, 8, 8, 8],
            "depths": [1, 1, 1, 1],
            "groups_width": 4,
            "num_labels": 3,
        },
        images(),
    ),
    "ResNetForImageClassification": Tiny(c.RESNET | _THREE, images()),
    "ResNetForImageClassification/bottleneck": Tiny(
        c.RESNET | {"layer_type": "bottleneck", "hidden_sizes": [8, 8, 16, 16]} | _THREE, images()
    ),
    "SwiftFormerForImageClassification": Tiny(
        {"image_size": 32, "depths": [1, 1, 1, 1], "embed_dims": [4, 8, 8, 8], "num_labels": 3},
        images(),
    ),
    "TextNetForImageClassification": Tiny(c.TEXTNET, images()),
    "TimmWrapperForImageClassification": Tiny(
        {"architecture": "test_resnet", "num_labels": 3}, images()
    ),
}
_BACKBONES = {
    "HGNetV2Backbone": Tiny(c.HGNET | _OUT, images()),
    "PPLCNetBackbone": Tiny(c.LCNET | _OUT, images()),
    "PPLCNetV3Backbone": Tiny(c.LCNET_V3 | _OUT, images()),
    "PPLCNetV4Backbone": Tiny(c.LCNET_V4 | _OUT, images()),
    "ResNetBackbone": Tiny(c.RESNET | _OUT, images()),
    "RTDetrResNetBackbone": Tiny(c.RT_RESNET | _OUT, images()),
    "TextNetBackbone": Tiny(c.TEXTNET | _OUT, images()),
    "TimmBackbone": Tiny(c.TIMM | {"out_indices": [1, 2]}, images()),
    "TimmBackbone/act": Tiny(
        c.TIMM | {"backbone": "test_efficientnet", "out_indices": [1, 2]}, images()
    ),
    "TimmBackbone/frozen": Tiny(
        c.TIMM | {"out_indices": [1, 2], "freeze_batch_norm_2d": True}, images()
    ),
    "UVDocBackbone": Tiny(c.UVDOC, images(64)),
}
_DETECTORS = {
    "ConditionalDetrForObjectDetection": Tiny(c.DETR_RESNET, images()),
    "ConditionalDetrForObjectDetection/timm": Tiny(c.DETR_TIMM, images()),
    "ConditionalDetrForSegmentation": Tiny(c.DETR_MASKS, images()),
    "DabDetrForObjectDetection": Tiny(c.DETR_RESNET | {"hidden_size": 8}, images()),
    "DeformableDetrForObjectDetection": Tiny(
        c.DEFORMABLE | {"backbone_config": c.RESNET | {"out_features": c.STAGES[2:]}}, images()
    ),
    "DeformableDetrForObjectDetection/timm": Tiny(
        c.DEFORMABLE | {"backbone_config": c.TIMM | {"out_indices": [3, 4]}}, images()
    ),
    # At 32 pixels the last feature map has one place, and train mode normalises two values per
    # channel: reversing the batch then moves that map of the stock models themselves, in float64,
    # by a fifth of it (DEIMv2) and by 1e-4 (D-FINE).
    "Deimv2ForObjectDetection": Tiny(c.RT_DETR_HGNET, images(128)),
    "DetrForObjectDetection": Tiny(c.DETR_RESNET, images(64)),
    "DetrForObjectDetection/timm": Tiny(c.DETR_TIMM, images()),
    "DetrForSegmentation": Tiny(c.DETR_MASKS, images()),
    "DFineForObjectDetection": Tiny(c.RT_DETR_HGNET, images(128)),
    "GroundingDinoForObjectDetection": Tiny(c.GROUNDING, captioned()),
    "LwDetrForObjectDetection": Tiny(c.LW_DETR, images()),
    "MMGroundingDinoForObjectDetection": Tiny(c.GROUNDING, captioned()),
    "OmDetTurboForObjectDetection": Tiny(c.OMDET, _tasks_and_classes),
    "PPDocLayoutV2ForObjectDetection": Tiny(c.DOC_LAYOUT | c.READING_ORDER, images()),
    "PPDocLayoutV3ForObjectDetection": Tiny(c.DOC_LAYOUT | c.DOC_MASKS, images()),
    "PPDocLayoutV4ForObjectDetection": Tiny(c.DOC_LAYOUT, images()),
    "PPOCRV5MobileDetForObjectDetection": Tiny(c.MOBILE_TEXT_DETECTION, images(64)),
    "PPOCRV5ServerDetForObjectDetection": Tiny(c.SERVER_TEXT_DETECTION, images(64)),
    "PPOCRV6MediumDetForObjectDetection": Tiny(c.MEDIUM_TEXT_DETECTION, images(64)),
    "PPOCRV6SmallDetForObjectDetection": Tiny(c.SMALL_TEXT_DETECTION, images(64)),
    "RTDetrForObjectDetection": Tiny(c.RT_DETR_RESNET, images()),
    "RTDetrForObjectDetection/unfrozen": Tiny(
        c.RT_DETR_RESNET | {"freeze_backbone_batch_norms": False}, images()
    ),
    "RTDetrV2ForObjectDetection": Tiny(c.RT_DETR_RESNET, images()),
    "TableTransformerForObjectDetection": Tiny(c.DETR_RESNET, images()),
    "TableTransformerForObjectDetection/timm": Tiny(c.DETR_TIMM, images()),
}
_DENSE = {
    "BeitForSemanticSegmentation": Tiny(c.VIT | _HEADS, images()),
    "Data2VecVisionForSemanticSegmentation": Tiny(c.VIT | _HEADS, images()),
    "DepthProForDepthEstimation": Tiny(c.DEPTH_PRO, images(32)),
    "DPTForDepthEstimation": Tiny(c.DPT, images()),
    "DPTForSemanticSegmentation": Tiny(c.DPT, images()),
    "GLPNForDepthEstimation": Tiny(c.SEGFORMER, images()),
    "MaskFormerForInstanceSegmentation": Tiny(c.MASKFORMER, images()),
    "Mask2FormerForUniversalSegmentation": Tiny(c.MASK2FORMER, images(64)),
    "MobileNetV2ForSemanticSegmentation": Tiny(c.MOBILENET, images()),
    "MobileViTForSemanticSegmentation": Tiny(c.MOBILEVIT, images()),
    "MobileViTV2ForSemanticSegmentation": Tiny(c.MOBILEVIT_V2, images(64)),
    "OneFormerForUniversalSegmentation": Tiny(c.ONEFORMER, _oneformer_inputs),
    "SegformerForSemanticSegmentation": Tiny(c.SEGFORMER, images()),
    "UperNetForSemanticSegmentation": Tiny(
        _UPER | {"backbone_config": c.RESNET | _OUT, "auxiliary_in_channels": 8}, images()
    ),
    "VitMatteForImageMatting": Tiny(c.VITMATTE, images(32, channels=4)),
    "VitPoseForPoseEstimation": Tiny(c.VITPOSE, images()),
    "ZoeDepthForDepthEstimation": Tiny(c.ZOEDEPTH, images()),
}
_OTHERS = {
    "AlignModel": Tiny(
        {"text_config": c.TEXT, "vision_config": c.EFFICIENTNET, "projection_dim": 16}, captioned()
    ),
    "AlignVisionModel": Tiny(c.EFFICIENTNET, images()),
    # transformers 5.23 looks up the place in a window of 8 x 8 in a table with one row per coarse
    # place, so a smaller image than this, with fewer than 64 of them, is out of its range.
    "EfficientLoFTRForKeypointMatching": Tiny(c.LOFTR, _pairs(64)),
    "GroupViTModel": Tiny(c.GROUPVIT, captioned()),
    "PPOCRV5MobileRecForTextRecognition": Tiny(
        c.RECOGNITION | {"backbone_config": c.LCNET_V3 | {"out_features": c.LCNET_STAGES}},
        images(96, width=64),
    ),
    "PPOCRV5ServerRecForTextRecognition": Tiny(
        c.RECOGNITION | {"backbone_config": c.HGNET_TEXT | _OUT}, images(96, width=64)
    ),
    "PPOCRV6SmallRecForTextRecognition": Tiny(
        c.RECOGNITION | {"backbone_config": c.LCNET_V4 | _OUT}, images(96, width=64)
    ),
    "PPOCRV6TinyRecForTextRecognition": Tiny(
        {"hidden_size": 8, "head_out_channels": 5, "backbone_config": c.LCNET_V4 | _OUT},
        images(96, width=64),
    ),
    "Sam3LiteTextTextModel": Tiny(
        c.TEXT | {"num_hidden_layers": 2, "projection_dim": 8, "repmixer_kernel_size": 3}, tokens
    ),
    "SLANetForTableRecognition": Tiny(c.SLANET, images()),
    "SuperGlueForKeypointMatching": Tiny(c.SUPERGLUE, _pairs(32)),
    "TvpForVideoGrounding": Tiny(c.TVP, _tvp_inputs),
    "UVDocModel": Tiny(
        {
            "backbone_config": c.UVDOC | {"model_type": "uvdoc_backbone"},
            "bridge_connector": [8, 8],
            "out_point_positions2D": [[8, 4], [4, 2]],
        },
        images(64),
    ),
}


def _build(name: str, tiny: Tiny) -> tuple[nn.Module, dict[str, Tensor]]:
    import transformers

    model_class = getattr(transformers, name.partition("/")[0])
    fields = {k: v for k, v in tiny.fields.items() if k != "model_type"}
    return model_class(model_class.config_class(**fields)), tiny.inputs()


def is_installed(name: str) -> bool:
    """Whether the transformers release at hand has the class of an entry of `HF_MODELS`."""
    import transformers

    return hasattr(transformers, name.partition("/")[0])


HF_MODELS: dict[str, Callable[[], tuple[nn.Module, dict[str, Tensor]]]] = {
    name: functools.partial(_build, name, tiny)
    for group in (_CLASSIFIERS, _BACKBONES, _DETECTORS, _DENSE, _OTHERS)
    for name, tiny in group.items()
}

_SPEECH = "speech, not vision"
_SERIES = "time series, not vision"

# By folder of transformers' sources.
LEFT_OUT = {
    "clap": _SPEECH,
    "emu3": "BatchNorm3d in an image tokenizer that has no forward of its own",
    "fastspeech2_conformer": _SPEECH,
    "granite_speech": _SPEECH,
    "granite_speech5": _SPEECH,
    "granite_speech_plus": _SPEECH,
    "hubert": _SPEECH,
    "informer": _SERIES,
    "lasr": _SPEECH,
    "layoutlmv2": "its backbone is detectron2, which is on no package index",
    "parakeet": _SPEECH,
    "patchtsmixer": _SERIES,
    "patchtst": _SERIES,
    "sapiens2": "its heads use InstanceNorm; BatchNorm stands in a docstring only",
    "seamless_m4t": _SPEECH,
    "speecht5": _SPEECH,
    "wav2vec2_conformer": _SPEECH,
}

# Image classifiers and backbones whose source files build BatchNorm for their neighbours only.
WITHOUT_BATCHNORM = {
    "BeitBackbone",
    "BeitForImageClassification",
    "Data2VecVisionForImageClassification",
    "LwDetrViTBackbone",
    "PerceiverForImageClassificationFourier",
    "PerceiverForImageClassificationLearned",
    "SegformerForImageClassification",
}
