"""Depth Anything V2 as the estimator of `data build --depth-model`, in JAX and without torch.

`data_pipeline` knows nothing of networks; it is handed an object with the members of
`data_pipeline.photos.DepthEstimator`, which every building process unpickles by this module's name.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from bokeh_jax.inference.depth import DepthModel, estimate_disparity
from bokeh_jax.interop.depth_files import read_depth_config
from bokeh_jax.interop.depth_settings import MODEL_TYPE
from bokeh_jax.interop.tensor_files import CONFIG_FILE, read_config
from bokeh_jax.training import checkpoint
from data_pipeline.photos import DepthEstimator, HuggingFaceDepth


@dataclasses.dataclass(frozen=True)
class DepthAnythingEstimator:
    """See `data_pipeline.photos.DepthEstimator`.

    Attributes:
        folder: as transformers' `save_pretrained` writes it, or of a run with task 'depth'.
    """

    folder: Path

    def recipe(self) -> dict[str, Any]:
        """The network's files by content, and who runs it: rounding differs from torch's."""
        if checkpoint.steps(self.folder):
            stored = checkpoint.read_step(self.folder, checkpoint.existing_step(self.folder))
            sums = json.dumps(stored.record.checksums, sort_keys=True).encode()
            digest = hashlib.sha256(sums).hexdigest()[:16]
            return {"estimator": "bokeh_jax", "task": "depth", "checkpoint": digest}
        kind = read_depth_config(self.folder).kind
        files = HuggingFaceDepth(self.folder, "depth" if kind == "metric" else "disparity")
        return files.recipe() | {"estimator": "bokeh_jax"}

    def check(self) -> None:
        """Raise InvalidInput unless the folder describes a network that is supported."""
        if checkpoint.steps(self.folder):
            _model(self.folder)
        else:
            read_depth_config(self.folder)

    def __call__(
        self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]
    ) -> Sequence[Float32[np.ndarray, "_ _"]]:
        """The relative disparity of each photograph, [0, 1], nearer is larger, at its size.

        Raises:
            InvalidInput: the folder cannot be loaded.
        """
        model = _model(self.folder)
        pictures = [image.astype(np.float32) / np.float32(255) for image in images]
        return [estimate_disparity(model, picture).relative for picture in pictures]


def depth_estimator(folder: Path) -> DepthEstimator:
    """Ours for Depth Anything and runs with task 'depth', else Hugging Face's pipeline in torch."""
    if checkpoint.steps(folder):
        return DepthAnythingEstimator(folder)
    is_file = (folder / CONFIG_FILE).is_file()
    if is_file and read_config(folder).get("model_type") == MODEL_TYPE:
        return DepthAnythingEstimator(folder)
    return HuggingFaceDepth(folder)


# Loaded once a process.
@functools.cache
def _model(folder: Path) -> DepthModel:
    return DepthModel.from_folder(folder)
