"""Depth Anything of transformers with a handful of numbers and every weight random."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    DPTImageProcessorPil,
)

# Positions are learned for 4 x 4 patches; photographs are brought to about as many.
PATCH_PX, WORKING_PX = 14, 56


def random_depth_model(seed: int = 0, **fields: Any) -> DepthAnythingForDepthEstimation:
    """Theirs, float32, unit order in and out of every layer."""
    backbone = Dinov2Config(
        hidden_size=24,
        num_hidden_layers=4,
        num_attention_heads=3,
        image_size=WORKING_PX,
        patch_size=PATCH_PX,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=24,
        neck_hidden_sizes=[6, 8, 10, 12],
        fusion_hidden_size=8,
        head_hidden_size=5,
        **fields,
    )
    model = DepthAnythingForDepthEstimation(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            drawn = torch.randn(tensor.shape, generator=generator)
            if tensor.ndim > 1 and "embeddings.position" not in name:
                tensor.copy_(drawn / tensor[0].numel() ** 0.5)
            else:
                is_scale = name.endswith("lambda1") or ("norm" in name and "weight" in name)
                tensor.copy_(0.2 * drawn + float(is_scale))
        # Above 0 nearly everywhere: rectified outputs hide differences.
        model.head.conv3.bias.fill_(2.0 if config.depth_estimation_type == "relative" else 0.0)
    return model


def image_processor() -> DPTImageProcessorPil:
    """As the published models have it, but for the size."""
    return DPTImageProcessorPil(
        size={"height": WORKING_PX, "width": WORKING_PX},
        ensure_multiple_of=PATCH_PX,
        keep_aspect_ratio=True,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )


def save_depth_model(folder: Path, model: DepthAnythingForDepthEstimation) -> Path:
    """Writes what is published: config, weights and how images are prepared."""
    model.save_pretrained(folder)
    image_processor().save_pretrained(folder)
    return folder
