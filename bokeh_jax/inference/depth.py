"""Disparity of a photograph of any size by a Depth Anything network (`models.depth_anything`).

The photograph is brought to the size that the network was trained around, as transformers'
`DPTImageProcessor` does: with s the side that the network wants (518 px in published ones),

    scale = whichever of s / height, s / width changes the photograph less,

both sides then rounded to multiples of a patch; cubic resampling. Of photographs longer than
8 : 1 it is the scale at which the longer side is 8 s: attention grows with its square. The answer
goes back to the photograph's size by torch's cubic interpolation, which is what
`post_process_depth_estimation` does; what shoots beyond the range that the network answered is cut.

Relative disparity is taken to [0, 1] by its own least and largest value. Of metric networks it is
1 / depth that goes back to the photograph's size; it is kept, in 1/m, beside the relative one.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32
from PIL import Image

from bokeh_jax.inference.photo_file import resize
from bokeh_jax.interop.depth_files import load_depth_model
from bokeh_jax.models import depth_anything
from bokeh_jax.models.config import ComputeDtype
from bokeh_jax.models.depth_config import DepthConfig
from bokeh_jax.models.interpolation import cubic_matrix
from bokeh_jax.objectives.depth import DEPTH
from bokeh_jax.training import checkpoint
from bokeh_jax.training.frozen import load_task
from data_pipeline.photos.depth_estimation import MIN_DEPTH_M, relative_disparity

MAX_ASPECT = 8

# Compiled once for each network and size.
_depth = jax.jit(depth_anything.depth, static_argnames="config")


@dataclasses.dataclass(frozen=True)
class DepthModel:
    """A network and its parameters."""

    config: DepthConfig
    params: dict[str, Any]

    @classmethod
    def from_folder(cls, folder: Path, compute_dtype: ComputeDtype = "float32") -> "DepthModel":
        """A folder of transformers' DepthAnythingForDepthEstimation, or a run with task 'depth'.

        Of a run the newest checkpoint's averaged parameters; its type of products is its own.

        Raises:
            InvalidInput: as `interop.depth_files.load_depth_model`; a run of another task.
        """
        if not checkpoint.steps(folder):
            return cls(*load_depth_model(folder, compute_dtype))
        config, params, _ = load_task(folder, "depth")
        return cls(config.depth, params[DEPTH])


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Disparity of a photograph, nearer is larger.

    Attributes:
        relative: in [0, 1]; 0 everywhere where the network sees no difference.
        per_m: 1/m, of metric networks; None of relative ones.
    """

    relative: Float32[np.ndarray, "h w"]
    per_m: Float32[np.ndarray, "h w"] | None = None


def estimate_disparity(model: DepthModel, photo: Float[np.ndarray, "h w 3"]) -> Estimate:
    """Disparity at the photograph's size.

    Args:
        model: the network.
        photo: sRGB-encoded, [0, 1].
    """
    height, width = photo.shape[:2]
    size = network_size(model.config, height, width)
    small = resize(photo.astype(np.float32), *size, method=Image.Resampling.BICUBIC)
    image = jnp.asarray(np.clip(small, 0.0, 1.0)[None])
    answer = np.asarray(_depth(model.config, model.params, image)[0])
    is_metric = model.config.kind == "metric"
    if is_metric:
        answer = 1 / np.maximum(answer, np.float32(MIN_DEPTH_M))
    large = cubic_matrix(size[0], height) @ answer @ cubic_matrix(size[1], width).T
    disparity = np.clip(large, answer.min(), answer.max())
    relative = relative_disparity(disparity, "disparity")
    return Estimate(relative, disparity if is_metric else None)


def network_size(config: DepthConfig, height_px: int, width_px: int) -> tuple[int, int]:
    """Rows and columns at which the network sees a photograph, multiples of a patch."""
    side, patch = config.working_size_px, config.patch_px
    # Of two that change it as much, that of the height.
    scale = min((side / height_px, side / width_px), key=lambda scale: abs(1 - scale))
    scale = min(scale, MAX_ASPECT * side / max(height_px, width_px))
    height, width = (max(1, round(scale * length / patch)) for length in (height_px, width_px))
    return height * patch, width * patch
