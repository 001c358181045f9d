"""Lens blur of photographs that are too large to be rendered at once.

The frame is cut into tiles. Each is rendered within a window that reaches beyond the tile by an
overlap, and only the tile's own pixels are kept::

    overlap = max_radius + the fill's reach

Light does not travel farther than the radius, so the one thing a window does not see as the whole
would is what the invented hidden content is interpolated from. Windows start at multiples of a
power of two, so that the pyramids of the fill fall on the same pixels as in the whole.

All windows but the last of a line have one shape: four functions are compiled at most. Memory is
that of a window.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bokeh_jax.optics.aperture import Aperture, Disc
from bokeh_jax.optics.defocus import render_window
from bokeh_jax.optics.zones import zone_hats

# Windows start at multiples of this.
_GRID_PX = 64
# Reach of the fill in radii, and at least this many pixels.
_FILL_REACH_RADII = 2
_LEAST_FILL_REACH_PX = 32


def render_tiled(
    image: Float[np.ndarray, "h w 3"],
    signed_radius_px: Float[np.ndarray, "h w"],
    *,
    aperture: Aperture = Disc(),
    max_radius_px: float | int,
    tile_px: int = 1024,
) -> Float[np.ndarray, "h w 3"]:
    """`render_radius` of one large photograph, tile by tile, in the host's memory.

    Not differentiable and not for use in compiled functions. A frame not larger than a window is
    rendered as a whole.

    Args:
        image: all in focus, linear light, float32.
        signed_radius_px: of the visible surfaces, see `focus` and `Lens.signed_radius_px`.
        aperture: shape of the blur.
        max_radius_px: signed radii beyond it are clamped to it.
        tile_px: height and width of a tile, at least 64.

    Raises:
        ValueError: shapes that do not fit, tiles that are too small.
    """
    if tile_px < _GRID_PX:
        raise ValueError(f"tile_px must be at least {_GRID_PX}, got {tile_px}")
    frame = (signed_radius_px.shape[0], signed_radius_px.shape[1])
    hats = zone_hats(aperture, frame)
    overlap_px = window_overlap_px(max_radius_px)
    result = np.empty((*frame, 3), np.float32)
    for top, bottom, rows in _cut(frame[0], tile_px, overlap_px):
        for left, right, columns in _cut(frame[1], tile_px, overlap_px):
            rendered = _render_window(
                jnp.asarray(image[rows, columns], jnp.float32),
                jnp.asarray(signed_radius_px[rows, columns], jnp.float32),
                jnp.asarray(hats.rows[:, rows], jnp.float32),
                jnp.asarray(hats.columns[:, columns], jnp.float32),
                frame=frame,
                aperture=aperture,
                max_radius_px=max_radius_px,
            )
            kept = np.asarray(rendered)
            kept = kept[top - rows.start : bottom - rows.start]
            result[top:bottom, left:right] = kept[:, left - columns.start : right - columns.start]
    return result


def window_overlap_px(max_radius_px: float | int) -> int:
    """Pixels that a window reaches beyond its tile."""
    fill_px = max(_LEAST_FILL_REACH_PX, math.ceil(_FILL_REACH_RADII * max_radius_px))
    reach_px = math.ceil(max_radius_px) + fill_px
    return -(-reach_px // _GRID_PX) * _GRID_PX


def _cut(size: int, tile_px: int, overlap_px: int) -> list[tuple[int, int, slice]]:
    """Tiles of a line and their windows: (first pixel, last + 1, window)."""
    tile_px = -(-tile_px // _GRID_PX) * _GRID_PX
    window_px = tile_px + 2 * overlap_px
    if size <= window_px:
        return [(0, size, slice(0, size))]
    tiles = []
    # The last window starts on the grid as all do, so it may be a little longer.
    last_start = (size - window_px) // _GRID_PX * _GRID_PX
    for first in range(0, size, tile_px):
        start = min(max(0, first - overlap_px), last_start)
        stop = size if start == last_start else start + window_px
        tiles.append((first, min(size, first + tile_px), slice(start, stop)))
    return tiles


@functools.partial(jax.jit, static_argnames=("frame", "aperture", "max_radius_px"))
def _render_window(
    image: Float[Array, "h w 3"],
    signed_radius_px: Float[Array, "h w"],
    rows: Float[Array, "z h"],
    columns: Float[Array, "z w"],
    *,
    frame: tuple[int, int],
    aperture: Aperture,
    max_radius_px: float | int,
) -> Float[Array, "h w 3"]:
    """`render_window`, compiled."""
    return render_window(
        image,
        signed_radius_px,
        (rows, columns),
        frame=frame,
        aperture=aperture,
        max_radius_px=max_radius_px,
    )
