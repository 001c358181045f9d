"""Slices of a focal stack laid on one another: focusing changes a lens's magnification.

Breathing moves the rim of a picture by a per cent of its width from slice to slice, which is more
than most of what refocusing changes. Between neighbours, which are the most alike, an affine map A
of pixel coordinates is found that maximises the enhanced correlation coefficient,

    max_A  corr(x_k(p), x_{k+1}(A p)),

(Evangelidis & Psarakis, "Parametric image alignment using enhanced correlation coefficient
maximization", PAMI 2008; OpenCV's `findTransformECC`), on luminance smoothed far beyond what the
two differ by in sharpness. Chained, they take every slice to the frame of the one that sees
least, so nothing has to be made up but for a sliver at the rim.
"""

import itertools
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float32, Float64

from bokeh_jax.errors import InvalidInput

Picture = Float32[np.ndarray, "h w 3"]
# Side of the pictures that are compared, and the standard deviation of their smoothing.
_COMPARED_PX = 512
_SMOOTHING_PX = 4.0
# Neighbours in the stacks that were tried reach 0.997 and more, two other photographs 0.2.
_LEAST_CORRELATION = 0.9
# Pictures that would move less at every corner stay as they are.
_LEAST_MOVE_PX = 0.5
_CRITERIA = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 200, 1e-6)


def aligned_slices(slices: Sequence[Picture], names: Sequence[str]) -> list[Picture]:
    """Takes every slice to the frame of the one with the narrowest view.

    Args:
        slices: sRGB-encoded, of one size, ordered by their focus.
        names: of the slices, for errors.

    Raises:
        InvalidInput: two neighbours that do not show one view.
    """
    maps = [np.eye(3)]
    pairs = zip(itertools.pairwise(slices), itertools.pairwise(names), strict=True)
    for pair, pair_names in pairs:
        maps.append(_between(*pair, pair_names) @ maps[-1])
    # A map of large determinant magnifies: its slice sees less.
    narrowest = max(maps, key=np.linalg.det)
    return [_warped(s, m @ np.linalg.inv(narrowest)) for s, m in zip(slices, maps, strict=True)]


def _between(first: Picture, second: Picture, names: tuple[str, str]) -> Float64[np.ndarray, "3 3"]:
    """Where the first picture's pixels lie in the second."""
    scale = min(1.0, _COMPARED_PX / max(first.shape[:2]))
    here, there = (_smooth_luminance(picture, scale) for picture in (first, second))
    start = np.eye(2, 3, dtype=np.float32)
    try:
        correlation, found = cv2.findTransformECC(here, there, start, cv2.MOTION_AFFINE, _CRITERIA)
    except cv2.error:
        # It has not converged.
        correlation, found = 0.0, np.eye(2, 3)
    if correlation < _LEAST_CORRELATION:
        raise InvalidInput(
            f"slices {names[0]} and {names[1]} cannot be laid on one another; allowed: photographs "
            "of one view"
        )
    # Centres of pixels are at whole numbers: scaled about the corner of the first, at -1/2.
    grow = np.diag([1 / scale, 1 / scale, 1.0])
    grow[:2, 2] = 0.5 / scale - 0.5
    return grow @ np.vstack([found, [0.0, 0.0, 1.0]]) @ np.linalg.inv(grow)


def _smooth_luminance(picture: Picture, scale: float) -> Float32[np.ndarray, "_ _"]:
    luminance = picture.mean(axis=-1, dtype=np.float32)
    small = cv2.resize(luminance, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return cv2.GaussianBlur(small, (0, 0), _SMOOTHING_PX)


def _warped(picture: Picture, to_slice: Float64[np.ndarray, "3 3"]) -> Picture:
    """The picture sampled where `to_slice` takes the pixels of the common frame."""
    height_px, width_px = picture.shape[:2]
    x, y = (0.0, width_px - 1.0), (0.0, height_px - 1.0)
    corners = np.array([(*corner, 1.0) for corner in itertools.product(x, y)]).T
    if np.abs(to_slice @ corners - corners).max() < _LEAST_MOVE_PX:
        return picture
    flags = cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(
        picture, to_slice[:2], (width_px, height_px), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    return moved.clip(0.0, 1.0)
