"""The peer of `bokeh-jax bench lens-blur`: the classical scatter, compiled by numba for all cores.

Every pixel i of radius r_i = |s_i| scatters its light to the pixels x of the square of half size
ceil(r_i) around it. With d the distance of x from i::

    w_i(x) = (1/2 + 1/2 tanh(4 (r_i - d))) / (r_i^2 + 0.2)
    out(x) = sum_i w_i(x) I_i / sum_i w_i(x)

This is the classical renderer of Peng, Cao, Luo, Lu, Xian & Zhang, "BokehMe: when neural rendering
meets classical rendering", CVPR 2022: it knows no hiding, and light off the frame is dropped.

It is plain: the formula as it stands, one tanh for every pair of pixels, in float32 with
`fastmath=True`. Each thread takes every n-th row of sources, so that all have the same share of
wide discs, and adds to sums of its own; these are added up in the end.
"""

import math
import typing

import numba
import numpy as np
from jaxtyping import Float

# numba computes a float32 with a plain Python number in float64, at half the speed.
_HALF = np.float32(0.5)
_STEEPNESS = np.float32(4.0)
_LEAST_AREA_PX2 = np.float32(0.2)


def num_threads() -> int:
    """Threads that share the work: all cores, unless NUMBA_NUM_THREADS says otherwise."""
    return numba.get_num_threads()


def scatter_blur(
    image: Float[np.ndarray, "h w 3"], signed_radius_px: Float[np.ndarray, "h w"]
) -> Float[np.ndarray, "h w 3"]:
    """Blur every pixel over its own disc; the module's head says how.

    Args:
        image: all in focus, linear light.
        signed_radius_px: of the visible surfaces; the sign plays no part.
    """
    height, width = signed_radius_px.shape
    sums = np.zeros((num_threads(), 4, height, width), np.float32)
    _scatter(
        np.ascontiguousarray(image, np.float32),
        np.ascontiguousarray(signed_radius_px, np.float32),
        sums,
    )
    total = sums.sum(axis=0)
    return np.moveaxis(total[:3] / total[3], 0, -1)


# The tests' run-time type checks would wrap the function, and numba cannot compile the wrapper.
@numba.njit(parallel=True, fastmath=True)
@typing.no_type_check
def _scatter(image, signed_radius_px, sums):
    """Adds weighted light and weights to `sums` [threads, 4, h, w]."""
    threads, _, height, width = sums.shape
    for thread in numba.prange(threads):
        for source_y in range(thread, height, threads):
            for source_x in range(width):
                radius_px = abs(signed_radius_px[source_y, source_x])
                reach_px = math.ceil(radius_px)
                scale = _HALF / (radius_px * radius_px + _LEAST_AREA_PX2)
                red = image[source_y, source_x, 0]
                green = image[source_y, source_x, 1]
                blue = image[source_y, source_x, 2]
                left = max(0, source_x - reach_px)
                right = min(width, source_x + reach_px + 1)
                for y in range(max(0, source_y - reach_px), min(height, source_y + reach_px + 1)):
                    dy = np.float32(y - source_y)
                    for x in range(left, right):
                        dx = np.float32(x - source_x)
                        inside_px = radius_px - math.sqrt(dx * dx + dy * dy)
                        weight = scale + scale * math.tanh(_STEEPNESS * inside_px)
                        sums[thread, 0, y, x] += weight * red
                        sums[thread, 1, y, x] += weight * green
                        sums[thread, 2, y, x] += weight * blue
                        sums[thread, 3, y, x] += weight
