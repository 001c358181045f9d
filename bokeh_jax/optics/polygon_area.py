"""The area of a closed polygon inside every pixel of a grid, exactly.

Green's theorem, one row at a time. Cut the boundary at every grid line. A piece that lies in row y
and column x, climbs by dy and has its midpoint at the fraction f of the pixel's width adds
dy * (1 - f) to the area of its own pixel and dy to that of every pixel right of it; summing the
pieces and accumulating along the row gives the covered area, whatever the shape.

The areas are piecewise polynomials of the vertices. Where an edge lies on a grid line, the pixels
on both sides have a kink, and slopes lie between those of the two sides.
"""

import math

import numpy as np
from jaxtyping import Array, Float

from bokeh_jax.optics.namespace import add_at, constant, in_one_namespace

# A regular polygon of n sides lacks 2 pi^2 / (3 n^2) of its circle's area: 4e-7 here.
CIRCLE_SIDES = 4096


def unit_circle(sides: int = CIRCLE_SIDES) -> Float[np.ndarray, "n 2"]:
    """Vertices (x, y) on the unit circle, in order."""
    turn = np.linspace(0.0, 2 * math.pi, sides, endpoint=False)
    return np.stack([np.cos(turn), np.sin(turn)], axis=-1)


def polygon_areas(
    vertices: Float[Array | np.ndarray, "n 2"], size: int, longest_px: float | None = None
) -> Float[Array | np.ndarray, "k k"]:
    """Area of a simple closed polygon inside each pixel of a size x size grid.

    Args:
        vertices: (x, y) in order, the grid reaching from 0 to `size`.
        size: pixels along a side.
        longest_px: what no coordinate changes by more than from one vertex to the next. Needed of
            traced vertices, whose steps cannot be measured; longer steps would be booked to the
            pixel of their middle.
    """
    xp, (vertices,) = in_one_namespace(vertices)
    if xp is np:
        longest_px = float(np.abs(np.roll(vertices, -1, axis=0) - vertices).max())
    assert longest_px is not None
    start, stop, cell = _cut_at_grid_lines(vertices, math.ceil(longest_px))
    middle = (start + stop) / 2
    column, row = xp.clip(cell, 0, size - 1).astype(int).T
    climb = stop[:, 1] - start[:, 1]
    pixel = row * size + column
    own = add_at(pixel, climb * (1 - (middle[:, 0] - column.astype(climb.dtype))), size * size)
    own = own.reshape(size, size)
    climbs = add_at(pixel, climb, size * size).reshape(size, size)
    right = xp.cumsum(climbs, axis=1) - climbs
    area = own + right
    # The sign depends on the direction of travel only; cancellation may leave -1e-17. Rounding
    # decides the sign where nothing is covered, so slopes have that of the whole.
    turned = xp.sign(area.sum()) * area
    return turned + constant(xp.abs(area) - turned)


def _cut_at_grid_lines(
    vertices: Float[Array | np.ndarray, "n 2"], count: int
) -> tuple[Float[Array | np.ndarray, "m 2"], ...]:
    """Straight pieces of a closed boundary: their start, stop and pixel, which none leaves.

    Args:
        vertices: of the boundary.
        count: parts of every side that are at most one pixel long.
    """
    xp, (vertices,) = in_one_namespace(vertices)
    start, stop = vertices, xp.roll(vertices, -1, axis=0)
    parts = np.arange(count + 1)[None, :, None] / (count or 1)
    # Steps of at most one pixel cross at most one line of either direction.
    points = start[:, None] + (stop - start)[:, None] * parts
    start, stop = points[:, :-1].reshape(-1, 2), points[:, 1:].reshape(-1, 2)
    first, last = xp.floor(start), xp.floor(stop)
    step, stays = stop - start, first == last
    # A divisor of 1 where no line is crossed: slopes of what is not used must be finite too.
    cut = (xp.maximum(first, last) - start) / xp.where(stays, 1.0, step)
    x, y = xp.where(stays, 0.0, cut).T
    x_first = x <= y
    ends = xp.stack(
        [xp.zeros_like(x), xp.where(x_first, x, y), xp.where(x_first, y, x), xp.ones_like(x)], -1
    )
    points = start[:, None] + step[:, None] * ends[..., None]
    # Not from the pieces' middles: rounding may put that of a tiny piece, whose slope is not tiny,
    # beyond the line. A vertex counts to one pixel, on both its sides.
    between = xp.stack(
        [xp.where(x_first, last[:, 0], first[:, 0]), xp.where(x_first, first[:, 1], last[:, 1])], -1
    )
    pixels = xp.stack([first, between, last], axis=1)
    return tuple(part.reshape(-1, 2) for part in (points[:, :-1], points[:, 1:], pixels))
