"""Outlines of openings: what the rim leaves of them, and the light that falls through them."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bokeh_jax.optics.namespace import Scalar, in_one_namespace, is_traced, sum_over_rows
from bokeh_jax.optics.polygon_area import polygon_areas

# Where the centre of a lens's rim lies, (x, y) in units of the opening's radius.
RimCenter = tuple[float, float] | Float[Array, "2"]
# A step along an outline is at most this much longer once the rim has cut it: 1 / (1 - a^2 / 2)
# for a rim's centre at the distance a < 1, found where the two circles meet.
_LONGER_BY_RIM = 2.0


class Outlines(NamedTuple):
    """Closed polygons inside the unit circle, each seen whole from the centre.

    Attributes:
        vertices: (x, y) of every outline, in order.
        weights: brightness of what every outline encloses; they add up where outlines overlap.
        longest_step: what no coordinate changes by more than from one vertex to the next.
    """

    vertices: Float[Array | np.ndarray, "m n 2"]
    weights: Float[Array | np.ndarray, " m"]
    longest_step: float


def outline_light(
    outlines: Outlines,
    scale_px: Scalar,
    size: int,
    rim_center: RimCenter | None = None,
) -> Float[Array | np.ndarray, "k k"]:
    """Light in each pixel of a size x size grid, the outlines scaled about the grid's middle.

    Args:
        outlines: see `Outlines`.
        scale_px: factor from their unit to pixels, at most half the grid's size.
        size: of the grid.
        rim_center: of the rim that cuts them, if any.
    """
    xp = jnp if is_traced(outlines, scale_px, rim_center) else np
    longest_px = outlines.longest_step * size / 2
    if rim_center is not None:
        longest_px *= _LONGER_BY_RIM

    def light(outline, weight):
        passed = outline if rim_center is None else _cut_by_rim(outline, rim_center)
        return weight * polygon_areas(passed * scale_px + size / 2, size, longest_px)

    return sum_over_rows(xp, light, outlines.vertices, outlines.weights)


def _cut_by_rim(
    outline: Float[Array | np.ndarray, "n 2"], rim_center: RimCenter
) -> Float[Array | np.ndarray, "n 2"]:
    """Move what lies outside the rim's disc towards the centre, onto the rim."""
    xp, (outline, center) = in_one_namespace(
        outline, rim_center if is_traced(rim_center) else np.array(rim_center)
    )
    # A hole of no size has no directions: the slope of its distance would not be a number.
    x = xp.where((outline == 0).all(axis=-1), 1.0, outline[:, 0])
    distance = xp.hypot(x, outline[:, 1])
    along = (outline / distance[:, None]) @ center
    # Where the ray from the axis through the vertex leaves the disc of radius 1 around the centre.
    leaves = along + xp.sqrt(along**2 + 1 - center @ center)
    return outline * xp.minimum(1.0, leaves / distance)[:, None]
