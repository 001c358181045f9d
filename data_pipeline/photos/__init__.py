"""Photographs with disparity: folders, lists and tar shards of them as a source of scenes."""

from data_pipeline.photos.depth_estimation import DepthEstimator, HuggingFaceDepth
from data_pipeline.photos.disparity import DisparityUnit, read_disparity
from data_pipeline.photos.sharpness import IN_FOCUS_BLUR_PX, edge_blur_px
from data_pipeline.photos.source import PhotoSource

__all__ = [
    "IN_FOCUS_BLUR_PX",
    "DepthEstimator",
    "DisparityUnit",
    "HuggingFaceDepth",
    "PhotoSource",
    "edge_blur_px",
    "read_disparity",
]
