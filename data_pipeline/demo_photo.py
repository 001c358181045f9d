"""The demo's real photograph: Middlebury 2014 'Motorcycle', left view, shipped by scikit-image.

Its disparity was measured with structured light (Scharstein et al. 2014). About 7 % of the pixels,
beside near objects, were seen by one camera only and have none; they are background, so each takes
the smaller of its two neighbours in the row. No training scene uses either view.
"""

import importlib.util
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from bokeh_jax.errors import InvalidInput


def _fill_rows(disparity: Float32[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
    """Gives every non-finite pixel the smaller of the next finite values left and right of it."""
    width_px = disparity.shape[1]
    known = np.isfinite(disparity)
    columns = np.arange(width_px)
    left = np.maximum.accumulate(np.where(known, columns, -1), axis=1)
    right = np.minimum.accumulate(np.where(known, columns, width_px)[:, ::-1], axis=1)[:, ::-1]

    def at(index: np.ndarray) -> np.ndarray:
        inside = (index >= 0) & (index < width_px)
        values = np.take_along_axis(disparity, np.clip(index, 0, width_px - 1), axis=1)
        return np.where(inside, values, np.inf)

    filled = np.where(known, disparity, np.minimum(at(left), at(right)))
    # A row with no measurement at all counts as farthest.
    return np.where(np.isfinite(filled), filled, disparity[known].min()).astype(np.float32)


def demo_photo() -> tuple[UInt8[np.ndarray, "h w 3"], Float32[np.ndarray, "h w"]]:
    """Photograph (sRGB) and relative disparity in [0, 1], near is 1.

    Raises:
        InvalidInput: scikit-image is not installed.
    """
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise InvalidInput(
            "package scikit-image is not installed; allowed: pip install 'bokeh-jax[textures]'"
        )
    folder = Path(spec.origin).parent / "data"
    with Image.open(folder / "motorcycle_left.png") as image:
        photograph = np.asarray(image.convert("RGB"))
    with np.load(folder / "motorcycle_disp.npz") as arrays:
        measured_px = arrays[arrays.files[0]].astype(np.float32)
    filled_px = _fill_rows(measured_px)
    return photograph, filled_px / filled_px.max()
