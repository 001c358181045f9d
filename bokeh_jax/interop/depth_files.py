"""A folder of transformers' Depth Anything, as `save_pretrained` writes it, into our parameters.

It holds `config.json`, `model.safetensors` (or several and an index) and, beside published weights,
`preprocessor_config.json`, which says how photographs are prepared. Nothing of it is run or
unpickled, and torch is not needed.
"""

from pathlib import Path
from typing import Any

import jax

from bokeh_jax.errors import InvalidInput
from bokeh_jax.interop.depth_names import UNUSED, depth_map
from bokeh_jax.interop.depth_settings import PREPROCESSOR_FILE, depth_config_from_transformers
from bokeh_jax.interop.reading import load_parameters
from bokeh_jax.interop.tensor_files import open_tensor_files, read_config, read_json
from bokeh_jax.models import depth_anything
from bokeh_jax.models.config import ComputeDtype
from bokeh_jax.models.depth_config import DepthConfig


def load_depth_model(
    folder: Path, compute_dtype: ComputeDtype = "bfloat16"
) -> tuple[DepthConfig, dict[str, Any]]:
    """The network of a folder, its float32 parameters on the first device.

    Args:
        folder: as transformers' `save_pretrained` writes it for DepthAnythingForDepthEstimation.
        compute_dtype: of its products.

    Raises:
        InvalidInput: the folder, a file of it, a field or a tensor is missing, damaged or of
            another network; one line that names it.
    """
    config = read_depth_config(folder, compute_dtype)
    files = open_tensor_files(folder)
    abstract = jax.eval_shape(
        lambda key: depth_anything.init_params(config, key), jax.random.key(0)
    )
    params, _ = load_parameters(files, depth_map(config, files.tensors), abstract, UNUSED)
    return config, params


def read_depth_config(folder: Path, compute_dtype: ComputeDtype = "bfloat16") -> DepthConfig:
    """The network that a folder's two JSON files describe.

    Raises:
        InvalidInput: a file is not readable, or describes what this network does not do.
    """
    if not folder.is_dir():
        raise InvalidInput(
            f"depth model {folder} is no folder; allowed: a folder with config.json and "
            "model.safetensors of DepthAnythingForDepthEstimation"
        )
    path = folder / PREPROCESSOR_FILE
    preprocessor = read_json(path) if path.is_file() else {}
    return depth_config_from_transformers(read_config(folder), preprocessor, compute_dtype)
