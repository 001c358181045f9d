"""Where to focus in a scene so that there is no doubt what is meant.

A point near an outline means two planes at once, and where nothing is to be seen, focus is not to
be seen either. A pixel counts only if, within `REACH` of it, disparity varies by less than `FLAT`,
and luminance (mean of the encoded channels) has a standard deviation above `DETAIL`. Of those near
a wanted disparity, the one deepest inside is taken: the largest distance to a pixel that does not
count, the frame's edge included.

    near, far   quantiles 0.97 and 0.03 of what counts
    middle      what comes closest to (near + far) / 2

Planes closer than `least_gap` do not differ enough: focusing from one to the other, doing nothing
would be nearly right.
"""

import dataclasses
import itertools

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from bokeh_jax.evaluation.questions import Point

PLANES = ("near", "middle", "far")
# Disparity, a fraction of the width, and encoded luminance.
FLAT = 0.06
REACH = 0.02
DETAIL = 0.03
# Of the flat pixels' disparities: those of the near and of the far plane.
QUANTILES = (0.97, 0.03)
# Disparity by which a pixel may miss the wanted one.
TOLERANCE = 0.02


@dataclasses.dataclass(frozen=True)
class FocusPlane:
    """A plane to focus on.

    Attributes:
        point: (x, y) as fractions of the frame, at the centre of a pixel.
        disparity: of that pixel.
    """

    point: Point
    disparity: float


def flat_pixels(disparity: Float32[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Pixels around which disparity hardly varies."""
    reach_px = max(1, round(REACH * disparity.shape[1]))
    window = np.ones((2 * reach_px + 1, 2 * reach_px + 1), np.uint8)
    return cv2.dilate(disparity, window) - cv2.erode(disparity, window) < FLAT


def detailed_pixels(image: UInt8[np.ndarray, "h w 3"]) -> Bool[np.ndarray, "h w"]:
    """Pixels around which there is something to be sharp."""
    luminance = image.mean(axis=-1, dtype=np.float32) / np.float32(255)
    side_px = 2 * max(1, round(REACH * image.shape[1])) + 1
    mean, square = (cv2.blur(value, (side_px, side_px)) for value in (luminance, luminance**2))
    return square - mean**2 > DETAIL**2


def plane_near(
    disparity: Float32[np.ndarray, "h w"], wanted: float, counts: Bool[np.ndarray, "h w"]
) -> FocusPlane:
    """The pixel deepest inside what lies about the wanted disparity.

    Args:
        disparity: of the visible surfaces.
        wanted: disparity; where no pixel has it, the closest one's is taken in its place.
        counts: pixels that may be taken, at least one.
    """
    distance = np.where(counts, np.abs(disparity - np.float32(wanted)), np.float32(np.inf))
    inside = np.pad(distance <= distance.min() + TOLERANCE, 1).astype(np.uint8)
    depth_px = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_5)[1:-1, 1:-1]
    row, column = np.unravel_index(int(np.argmax(depth_px)), depth_px.shape)
    height_px, width_px = disparity.shape
    point = ((int(column) + 0.5) / width_px, (int(row) + 0.5) / height_px)
    return FocusPlane(point, float(disparity[row, column]))


def focus_planes(
    disparity: Float32[np.ndarray, "h w"],
    image: UInt8[np.ndarray, "h w 3"],
    *,
    least_gap: float,
) -> tuple[FocusPlane, ...] | None:
    """Near, middle and far plane of a scene.

    Args:
        disparity: of the visible surfaces, relative, [0, 1].
        image: the scene all in focus, sRGB-encoded.
        least_gap: disparity between any two planes.

    Returns:
        One plane for each of `PLANES`; None where the scene has no three that differ so much.
    """
    counts = flat_pixels(disparity) & detailed_pixels(image)
    if not counts.any():
        return None
    near, far = np.quantile(disparity[counts], QUANTILES)
    found = tuple(plane_near(disparity, w, counts) for w in (near, (near + far) / 2, far))
    gaps = (first.disparity - second.disparity for first, second in itertools.pairwise(found))
    return found if min(gaps) >= least_gap else None
