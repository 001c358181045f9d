"""What only an evaluation may know of photographs: where they were focused, and the scene's scale.

Training cannot read it: neither batches nor the loader's scenes have these fields, and a contract
of import-linter keeps this module out of everything below `bokeh_jax.evaluation`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from data_pipeline.dataset import open_split


def decode_hidden(values: Mapping[str, Any]) -> dict[str, Float32[np.ndarray, "..."]]:
    """Return what only an evaluation may know of a scene; NaN where unknown.

    Returns:
        `focus_distance_m` float32 [], `subject_xy` float32 [2], `camera` float32 [4] in the order
        of CameraExif, `disparity_range_per_m` float32 [2].
    """
    hidden = values["hidden"]
    return {
        "focus_distance_m": np.asarray(hidden[0], np.float32),
        "subject_xy": hidden[1:],
        "camera": values["camera"],
        "disparity_range_per_m": values["disparity_range_per_m"],
    }


def load_hidden(path: Path, split: str) -> dict[str, np.ndarray]:
    """Load what only an evaluation may know of a split's scenes, all groups, in stored order.

    Returns:
        The arrays of `decode_hidden`, stacked along a first axis.

    Raises:
        InvalidInput: as `open_split`.
    """
    reader = open_split(path, split)
    scenes = [decode_hidden(reader.values(position)) for position in range(len(reader))]
    return {name: np.stack([scene[name] for scene in scenes]) for name in scenes[0]}
