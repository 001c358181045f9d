"""A network on a photograph larger than what it was trained at: tile by tile, at a scale it knows.

What a refocusing network adds to the lens blur depends on what lies within a few blur radii, not on
the whole picture. So a tile of the trained size T sees all it needs, if its blur is one that
training had: at most r T pixels a unit of disparity (r: `cameras.blur_fraction_max`). A photograph
of width W and blur K is worked on at the largest scale where that holds,

    (1) scale = min(1, r T / K_px),   K_px = W · max(blur asked, blur it was taken with),

and not so small that a side falls below T. Tiles overlap by a quarter; where they do, they are
blended with weights that fall linearly to their edges. Each is told the camera as a photograph of
its own: blur over T, and as point of focus its pixel nearest to the focus plane.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Integer, Shaped

from bokeh_jax.inference.request import Request
from bokeh_jax.models import Conditions

_OVERLAP = 0.25


def working_scale(
    size_px: tuple[int, int], blur: float, *, tile_px: int, blur_fraction_max: float
) -> float | None:
    """Equation (1); None where a side is too small for a tile.

    Args:
        size_px: (height, width) of the photograph.
        blur: the larger of what is asked and what it was taken with, K / width.
        tile_px: T.
        blur_fraction_max: r.
    """
    if min(size_px) < tile_px:
        return None
    blur_px = blur * size_px[1]
    fits = 1.0 if blur_px == 0 else min(1.0, blur_fraction_max * tile_px / blur_px)
    return max(fits, tile_px / min(size_px))


def scaled_size(size_px: tuple[int, int], scale: float, tile_px: int) -> tuple[int, int]:
    """(height, width) at a scale, no side below a tile."""
    height, width = (max(tile_px, round(side * scale)) for side in size_px)
    return height, width


def corners(size_px: tuple[int, int], tile_px: int) -> Integer[np.ndarray, "n 2"]:
    """(row, column) of the first pixel of every tile; together they cover the picture."""
    stride = max(1, round((1.0 - _OVERLAP) * tile_px))

    def starts(side: int) -> list[int]:
        count = 1 + math.ceil((side - tile_px) / stride)
        return [min(index * stride, side - tile_px) for index in range(count)]

    return np.asarray(
        [(row, column) for row in starts(size_px[0]) for column in starts(size_px[1])]
    )


def cut(
    picture: Shaped[np.ndarray, "h w *c"], at: Integer[np.ndarray, "n 2"], tile_px: int
) -> Shaped[np.ndarray, "n t t *c"]:
    """The tiles of a picture."""
    return np.stack([picture[y : y + tile_px, x : x + tile_px] for y, x in at])


def blend(
    tiles: Float[np.ndarray, "n t t c"], at: Integer[np.ndarray, "n 2"], size_px: tuple[int, int]
) -> Float[np.ndarray, "h w c"]:
    """Tiles back to a picture: weighted means where they overlap."""
    tile_px, channels = tiles.shape[1], tiles.shape[3]
    reach = max(1.0, _OVERLAP * tile_px)
    place = np.arange(tile_px) + 0.5
    ramp = np.minimum(np.minimum(place, tile_px - place) / reach, 1.0)
    weight = (ramp[:, None] * ramp).astype(np.float32)[..., None]
    total = np.zeros((*size_px, channels), np.float32)
    weights = np.zeros((*size_px, 1), np.float32)
    for tile, (y, x) in zip(tiles, at, strict=True):
        total[y : y + tile_px, x : x + tile_px] += weight * tile
        weights[y : y + tile_px, x : x + tile_px] += weight
    return total / weights


def focus_points(
    disparity: Float[np.ndarray, "n t t"], focus_disparity: float
) -> Float[np.ndarray, "n 2"]:
    """Of every tile the pixel nearest to the focus plane, as (x, y) in [0, 1]."""
    count, tile_px, _ = disparity.shape
    nearest = np.abs(disparity - focus_disparity).reshape(count, -1).argmin(axis=1)
    rows, columns = np.divmod(nearest, tile_px)
    return (np.stack([columns, rows], axis=1).astype(np.float32) + 0.5) / tile_px


def conditions(
    ask: Request,
    small: Float[np.ndarray, "h w 3"],
    small_disparity: Float[np.ndarray, "h w"],
    guess: Float[np.ndarray, "h w 3"],
    at: Integer[np.ndarray, "n 2"],
    tile_px: int,
) -> Conditions:
    """What every tile is told: as if it were a photograph of its own.

    Args:
        ask: what is asked of the whole photograph, with disparity.
        small: it at working size, sRGB-encoded.
        small_disparity: at working size.
        guess: the lens blur's answer there.
        at: `corners` of the tiles.
        tile_px: T.
    """
    count, per_tile = len(at), small.shape[1] / tile_px
    taken = ask.taken
    plane, own_plane = ask.plane(ask.focus), ask.plane(taken.focus)
    disparity = cut(small_disparity, at, tile_px).astype(np.float32)

    def all_tiles(value: float) -> jax.Array:
        return jnp.full(count, value, jnp.float32)

    def radii(blur: float, plane: np.float32) -> jax.Array:
        return jnp.asarray(np.float32(blur * per_tile) * (disparity - plane))

    return Conditions(
        reference=jnp.asarray(2.0 * cut(small, at, tile_px) - 1.0),
        guess=jnp.asarray(2.0 * cut(guess, at, tile_px) - 1.0),
        target_defocus=radii(ask.blur, plane),
        reference_defocus=radii(taken.blur, own_plane),
        disparity_given=all_tiles(1.0),
        reference_camera_given=all_tiles(float(ask.taken_with is not None)),
        focus_point=jnp.asarray(focus_points(disparity, float(plane))),
        focus_disparity=all_tiles(float(plane)),
        blur=all_tiles(ask.blur * per_tile),
        camera_given=all_tiles(1.0),
    ).visible()
