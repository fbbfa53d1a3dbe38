"""Tiny configurations of the transformers vision classes that contain BatchNorm-type layers.

Plain data, so that reading the list imports nothing: each entry holds the fields that shrink the
configuration of one class (few channels, one block per stage, random weights) and a function that
makes keyword inputs which the shrunken model takes. `hf_models.py` builds models of them, the
sweep over the zoo runs them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

Inputs = dict[str, Tensor]


class Tiny(NamedTuple):
    """A class of transformers, made small.

    Attributes:
        fields: Arguments of the class's configuration; a dict with a ``model_type`` stands for the
            configuration of a part.
        inputs: Makes the keyword arguments of a forward call, two examples.
    """

    fields: dict[str, Any]
    inputs: Callable[[], Inputs]


def images(size: int = 32, channels: int = 3, width: int | None = None) -> Callable[[], Inputs]:
    """``pixel_values (2, channels, size, width or size)``."""
    return lambda: {"pixel_values": torch.randn(2, channels, size, width or size)}


def tokens(length: int = 6, vocabulary: int = 16) -> Inputs:
    """``input_ids (2, length)``, none of them special, and a mask that hides none."""
    ids = torch.randint(3, vocabulary, (2, length))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def captioned(size: int = 32) -> Callable[[], Inputs]:
    """Images with a text each."""
    return lambda: images(size)() | tokens()


# --- parts ---------------------------------------------------------------------------------------

STAGES = ["stage1", "stage2", "stage3", "stage4"]
RESNET = {
    "model_type": "resnet",
    "embedding_size": 4,
    "hidden_sizes": [4, 8, 8, 8],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
}
RT_RESNET = RESNET | {"model_type": "rt_detr_resnet"}
HGNET = {
    "model_type": "hgnet_v2",
    "embedding_size": 4,
    "hidden_sizes": [8, 8, 8, 8],
    "depths": [1, 1, 1, 1],
    "stem_channels": [3, 4, 4],
    "stage_in_channels": [4, 8, 8, 8],
    "stage_mid_channels": [4, 4, 4, 4],
    "stage_out_channels": [8, 8, 8, 8],
    "stage_num_blocks": [1, 1, 1, 1],
    "stage_numb_of_layers": [1, 1, 1, 1],
}
# Blocks are [kernel size, channels in, channels out, stride, squeeze-and-excitation].
LCNET = {
    "scale": 1,
    "stem_channels": 8,
    "divisor": 8,
    "block_configs": [
        [[3, 8, 8, 1, False]],
        [[3, 8, 8, 2, False]],
        [[3, 8, 8, 2, False]],
        [[3, 8, 8, 2, False]],
        [[5, 8, 16, 2, True]],
    ],
}
LCNET_STAGES = [*STAGES[1:], "stage5"]
LCNET_V3 = LCNET | {"model_type": "pp_lcnet_v3", "conv_symmetric_num": 2}
LCNET_V4 = {
    "model_type": "pp_lcnet_v4",
    "stem_channels": [3, 4, 8],
    "block_configs": [[[3, 8, 8, 1, True]]] + [[[3, 8, 8, 2, False]]] * 3,
}
SWIN = {
    "model_type": "swin",
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 4,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 1, 1],
    "window_size": 2,
}
VIT = {
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "vocab_size": 16,
    "max_position_embeddings": 16,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
BERT = TEXT | {"model_type": "bert"}
TIMM = {
    "model_type": "timm_backbone",
    "backbone": "test_resnet",
    "features_only": True,
    "use_pretrained_backbone": False,
}

# --- families ------------------------------------------------------------------------------------

DETR = {
    "d_model": 8,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 8,
    "decoder_ffn_dim": 8,
    "num_queries": 3,
    "num_labels": 3,
}
DETR_RESNET = DETR | {"backbone_config": RESNET | {"out_features": STAGES[-1:]}}
DETR_TIMM = DETR | {"backbone_config": TIMM | {"out_indices": [1, 2, 3, 4]}}
DEFORMABLE = DETR | {
    "d_model": 32,  # its GroupNorms have 32 groups
    "decoder_layers": 2,  # later heads are tied to the first
    "num_feature_levels": 2,
    "encoder_n_points": 2,
    "decoder_n_points": 2,
}
GROUNDING = DEFORMABLE | {
    "backbone_config": RESNET | {"out_features": STAGES[-1:]},
    "text_config": BERT,
    "max_text_len": 8,
    "num_queries": 2,  # as many as there are positions
}
RT_DETR = DETR | {
    "decoder_layers": 2,  # later heads are tied to the first
    "encoder_in_channels": [8, 8, 8],
    "encoder_hidden_dim": 8,
    "decoder_in_channels": [8, 8, 8],
    "decoder_n_points": 2,
    "num_denoising": 0,
}
RT_DETR_RESNET = RT_DETR | {"backbone_config": RT_RESNET | {"out_indices": [2, 3, 4]}}
RT_DETR_HGNET = RT_DETR | {"backbone_config": HGNET | {"out_indices": [2, 3, 4]}}
EFFICIENTNET = {
    "image_size": 32,
    "width_coefficient": 0.25,
    "depth_coefficient": 1.0,
    "kernel_sizes": [3, 5],
    "in_channels": [32, 32],
    "out_channels": [32, 64],
    "strides": [1, 2],
    "num_block_repeats": [1, 1],
    "expand_ratios": [1, 2],
    "hidden_dim": 320,  # a quarter of 1280
}
MOBILEVIT = {
    "image_size": 32,
    "hidden_sizes": [8, 8, 8],
    "neck_hidden_sizes": [4, 4, 4, 4, 4, 4, 8],
    "num_attention_heads": 2,
    "aspp_out_channels": 4,
    "num_labels": 3,
}
MOBILEVIT_V2 = {
    "image_size": 32,
    "n_attn_blocks": [1, 1, 1],
    "base_attn_unit_dims": [8, 8, 8],
    "width_multiplier": 0.25,
    "aspp_out_channels": 4,
    "num_labels": 3,
}
MOBILENET = {"image_size": 32, "depth_multiplier": 0.25, "num_labels": 3}
LEVIT = {
    "image_size": 64,
    "hidden_sizes": [16, 16, 16],
    "num_attention_heads": [1, 1, 1],
    "depths": [1, 1, 1],
    "key_dim": [8, 8, 8],
    "num_labels": 3,
}
SEGFORMER = {
    "depths": [1, 1, 1, 1],
    "hidden_sizes": [4, 4, 8, 8],
    "num_attention_heads": [1, 1, 1, 1],
    "decoder_hidden_size": 8,
    "num_labels": 3,
}
TEXTNET = {
    "stem_out_channels": 4,
    "hidden_sizes": [4, 4, 8, 8, 8],
    "conv_layer_kernel_sizes": [[[3, 3]], [[3, 1]], [[1, 3]], [[3, 3]]],
    "conv_layer_strides": [[2], [1], [2], [2]],
    "image_size": 32,
    "num_labels": 3,
}
PERCEIVER = {
    "num_latents": 4,
    "d_latents": 8,
    "num_self_attends_per_block": 1,
    "num_self_attention_heads": 2,
    "num_cross_attention_heads": 1,
    "num_labels": 3,
}
DPT = VIT | {
    "num_hidden_layers": 4,
    "backbone_out_indices": [0, 1, 2, 3],
    "neck_hidden_sizes": [4, 4, 8, 8],
    "fusion_hidden_size": 8,
    "use_batch_norm_in_fusion_residual": True,
    "num_labels": 3,
}
RECOGNITION = {
    "hidden_size": 8,
    "depth": 1,
    "num_attention_heads": 2,
    "head_out_channels": 5,
}
DETR_MASKS = DETR_RESNET | {
    "d_model": 16,
    "encoder_attention_heads": 8,
    "backbone_config": RESNET | {"out_features": STAGES},
}
DOC_LAYOUT = RT_DETR | {
    "backbone_config": HGNET | {"out_features": STAGES[1:]},
    "hidden_size": 8,
    "global_pointer_head_size": 4,
}
DOC_MASKS = {
    "backbone_config": HGNET | {"out_features": STAGES},
    "mask_feature_channels": [4, 4],
    "x4_feat_dim": 8,
    "num_prototypes": 4,
}
READING_ORDER = {
    "class_thresholds": [0.0, 0.0, 0.0],
    "class_order": [0, 1, 2],
    "reading_order_config": {
        "hidden_size": 8,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "coordinate_size": 1,
        "shape_size": 2,
        "relation_bias_embed_dim": 4,
        "global_pointer_head_size": 4,
    },
}
LW_DETR = {
    "backbone_config": VIT
    | {
        "model_type": "lw_detr_vit",
        "pretrain_image_size": 32,
        "num_windows": 4,
        "mlp_ratio": 1,
        "out_features": ["stage1", "stage2"],
    },
    "projector_scale_factors": [1.0],
    "c2f_num_blocks": 1,
    "d_model": 8,
    "decoder_ffn_dim": 8,
    "decoder_n_points": 2,
    "decoder_layers": 1,
    "decoder_self_attention_heads": 2,
    "decoder_cross_attention_heads": 2,
    "num_queries": 3,
    "group_detr": 2,
    "num_labels": 3,
}
OMDET = {
    "backbone_config": SWIN | {"image_size": 64, "out_features": STAGES[1:]},
    "text_config": TEXT | {"model_type": "clip_text_model"},
    "image_size": 64,
    "apply_layernorm_after_vision_backbone": False,
    "text_projection_in_dim": 8,
    "text_projection_out_dim": 8,
    "task_encoder_hidden_dim": 8,
    "class_embed_dim": 8,
    "num_queries": 3,
    "encoder_hidden_dim": 16,
    "vision_features_channels": [16, 16, 16],
    "encoder_in_channels": [8, 16, 32],
    "encoder_attention_heads": 2,
    "encoder_dim_feedforward": 8,
    "decoder_hidden_dim": 16,
    "decoder_num_heads": 2,
    "decoder_num_layers": 1,
    "decoder_dim_feedforward": 8,
    "decoder_num_points": 2,
}
MOBILE_TEXT_DETECTION = {
    "backbone_config": LCNET_V3 | {"out_features": LCNET_STAGES},
    "neck_out_channels": 16,
    "layer_list_out_channels": [8, 8, 8, 16],
}
SMALL_TEXT_DETECTION = MOBILE_TEXT_DETECTION | {
    "backbone_config": LCNET_V4 | {"out_features": STAGES},
    "layer_list_out_channels": [8, 8, 8, 8],
    "dilated_kernel_size": 3,
}
SERVER_TEXT_DETECTION = {
    "backbone_config": HGNET | {"out_features": STAGES},
    "neck_out_channels": 16,
    "intraclass_block_config": {
        # (kernel size, stride, padding)
        "reduce_channel": [1, 1, 0],
        "return_channel": [1, 1, 0],
    }
    | {
        f"{direction}_{ratio}": [kernel, 1, padding]
        for ratio, k in (("longratio", 7), ("midratio", 5), ("shortratio", 3))
        for direction, kernel, padding in (
            ("vertical_long_to_small_conv", [k, 1], [k // 2, 0]),
            ("horizontal_small_to_long_conv", [1, k], [0, k // 2]),
            ("symmetric_conv_long", k, k // 2),
        )
    },
    "scale_factor_list": [1, 2, 4, 8],
    "kernel_list": [3, 2, 2],
}
MEDIUM_TEXT_DETECTION = SERVER_TEXT_DETECTION | {
    "backbone_config": LCNET_V4 | {"out_features": STAGES}
}
HGNET_TEXT = HGNET | {
    "stage_downsample": [True, True, True, True],
    "stem_strides": [2, 1, 1, 1, 1],
    "stage_downsample_strides": [[2, 1], [1, 2], [2, 1], [2, 1]],
}
# Blocks are (channels in, channels out, dilation, downsample); stages are (channels, dilation).
UVDOC = {
    "resnet_head": [[3, 4], [4, 4]],
    "resnet_configs": [[[4, 4, 1, False]], [[4, 8, 1, True]], [[8, 8, 1, True]]],
    "stage_configs": [[[8, 1]], [[8, 2]]],
    "out_features": ["stage1", "stage2"],
}
_DINO = VIT | {"model_type": "dinov2", "image_size": 16, "patch_size": 4}
DEPTH_PRO = {
    "patch_size": 16,
    "fusion_hidden_size": 8,
    "intermediate_hook_ids": [1, 0],
    "intermediate_feature_dims": [4, 4],
    "scaled_images_ratios": [0.5, 1.0],
    "scaled_images_overlap_ratios": [0.0, 0.2],
    "scaled_images_feature_dims": [8, 8],
    "use_batch_norm_in_fusion_residual": True,
    "image_model_config": _DINO,
    "patch_model_config": _DINO,
    "fov_model_config": _DINO,
}
MASKFORMER = {
    "backbone_config": RESNET | {"out_features": STAGES},
    "decoder_config": DETR | {"model_type": "detr", "backbone_config": RESNET},
    "fpn_feature_size": 32,
    "mask_feature_size": 8,
    "num_labels": 3,
}
MASK2FORMER = {
    "backbone_config": RESNET | {"out_features": STAGES},
    "feature_size": 32,
    "mask_feature_size": 32,
    "hidden_dim": 32,
    "encoder_feedforward_dim": 8,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "num_attention_heads": 2,
    "dim_feedforward": 8,
    "num_queries": 3,
    "num_labels": 3,
}
ONEFORMER = {
    "backbone_config": RESNET | {"out_features": STAGES},
    "num_queries": 3,
    "task_seq_len": 6,
    "text_encoder_width": 8,
    "text_encoder_context_length": 6,
    "text_encoder_num_layers": 1,
    "text_encoder_vocab_size": 16,
    "text_encoder_n_ctx": 2,
    "conv_dim": 32,
    "mask_dim": 32,
    "hidden_dim": 32,
    "encoder_feedforward_dim": 8,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "num_attention_heads": 2,
    "dim_feedforward": 8,
    "query_dec_layers": 1,
    "num_labels": 3,
}
VITMATTE = {
    "backbone_config": {
        "model_type": "vitdet",
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "mlp_ratio": 1,
        "image_size": 32,
        "pretrain_image_size": 32,
        "num_channels": 4,
        "out_features": ["stage1"],
    },
    "hidden_size": 8,
    "convstream_hidden_sizes": [4, 4, 8],
    "fusion_hidden_sizes": [8, 8, 4, 4],
}
VITPOSE = {
    "backbone_config": VIT
    | {
        "model_type": "vitpose_backbone",
        "image_size": [32, 32],
        "patch_size": [8, 8],
        "mlp_ratio": 1,
        "part_features": 4,
        "out_indices": [2],
    },
    "use_simple_decoder": False,
    "num_labels": 3,
}
ZOEDEPTH = {
    "backbone_config": VIT
    | {
        "model_type": "beit",
        "num_hidden_layers": 4,
        "reshape_hidden_states": False,
        "out_features": STAGES,
    },
    "neck_hidden_sizes": [4, 4, 8, 8],
    "fusion_hidden_size": 8,
    "bottleneck_features": 8,
    "num_attractors": [2, 2, 2, 1],
    "bin_embedding_dim": 8,
    "num_relative_features": 4,
    "use_batch_norm_in_fusion_residual": True,
    "patch_transformer_hidden_size": 8,
    "patch_transformer_intermediate_size": 8,
    "patch_transformer_num_attention_heads": 2,
    "num_patch_transformer_layers": 1,
}
LOFTR = {
    "stage_num_blocks": [1, 1, 1, 1],
    "out_features": [4, 4, 8, 16],
    "hidden_size": 16,
    "num_attention_layers": 1,
    "num_attention_heads": 8,
    "fine_matching_slice_dim": 2,
}
GROUPVIT = {
    "text_config": TEXT,
    "vision_config": VIT
    | {
        "depths": [1, 1],
        "num_group_tokens": [4, 0],
        "num_output_groups": [4, 2],
    },
    "projection_dim": 8,
    "projection_intermediate_dim": 8,
}
SLANET = {
    "backbone_config": LCNET | {"model_type": "pp_lcnet", "out_features": LCNET_STAGES},
    "post_conv_out_channels": 8,
    "out_channels": 5,
    "hidden_size": 8,
    "max_text_length": 4,
}
SUPERGLUE = {
    "keypoint_detector_config": {
        "model_type": "superpoint",
        "encoder_hidden_sizes": [4, 4, 4, 8],
        "decoder_hidden_size": 8,
        "descriptor_decoder_dim": 8,
        "keypoint_threshold": 0.0,
        "max_keypoints": 8,
    },
    "hidden_size": 8,
    "keypoint_encoder_sizes": [4, 8],
    "gnn_layers_types": ["self", "cross"],
    "num_attention_heads": 2,
    "sinkhorn_iterations": 3,
}
TVP = TEXT | {
    "backbone_config": RESNET | {"out_features": STAGES[-1:]},
    "visual_prompt_size": 4,
    "max_img_size": 64,
    "num_frames": 2,
    "max_grid_col_position_embeddings": 8,
    "max_grid_row_position_embeddings": 8,
    "hidden_size": 8,
}
