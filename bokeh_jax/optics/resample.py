"""Halving and doubling of planes, the two steps of every pyramid here.

Halving takes means of 2 x 2 pixels; doubling interpolates bilinearly with pixel centres aligned, so
a coarse pixel lies in the middle of the four that it stands for::

    double:  out(2i) = 3/4 p(i) + 1/4 p(i - 1),    out(2i + 1) = 3/4 p(i) + 1/4 p(i + 1)

along either axis. Everything is a sum of strided planes, which compilers vectorise; window
reductions are twenty times slower on CPUs. All of it is linear, and the transposes are written out
for the same reason: those of strided planes would be paddings between pixels. Reverse mode only.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from bokeh_jax.optics.linear import kept, with_transpose

# What one pixel becomes along a line when it is doubled: linear, and the cubic B-spline's.
LINEAR = (0.25, 0.75, 0.75, 0.25)
CUBIC = tuple(weight / 384 for weight in (1, 27, 121, 235, 235, 121, 27, 1))

Planes = Float[Array, "*n h w"]


def halve(planes: Planes) -> Float[Array, "*n h2 w2"]:
    """Means of 2 x 2 pixels of planes with an even height and width."""
    return _halve(planes)


def quarters(planes: Planes) -> tuple[Float[Array, "*n h2 w2"], ...]:
    """The four pixels of every 2 x 2 block, each as a plane: rows first, then columns."""
    return _quarters(planes)


def double(planes: Planes) -> Float[Array, "*n h2 w2"]:
    """Bilinear interpolation to twice the size, pixel centres aligned, edges replicated."""
    return _double(planes)


def double_smoothly(planes: Planes) -> Float[Array, "*n h2 w2"]:
    """Twice the size by cubic B-splines: few images of the coarse grid, but some blur."""
    return kept(lambda planes: _cubic_lines(_cubic_lines(planes, -2), -1), planes)


def shrink(planes: Planes) -> Float[Array, "*n h2 w2"]:
    """Half the size, by the transpose of doubling: weights [1 3 3 1] / 8 along either axis."""
    return _shrink(planes)


def _strided(planes: Planes) -> tuple[Array, ...]:
    return tuple(planes[..., y::2, x::2] for y in (0, 1) for x in (0, 1))


def _woven(parts: tuple[Array, ...]) -> Array:
    """What `_strided` took apart."""
    rows = [jnp.stack(parts[2 * y : 2 * y + 2], axis=-1) for y in (0, 1)]
    height, width = parts[0].shape[-2:]
    return jnp.stack(rows, axis=-3).reshape(*parts[0].shape[:-2], 2 * height, 2 * width)


_quarters = with_transpose(_strided, _woven, keep=False)
_halve = with_transpose(
    lambda planes: 0.25 * sum(_strided(planes)), lambda halved: _woven((0.25 * halved,) * 4)
)


def _double_both(planes: Planes) -> Array:
    return _double_lines(_double_lines(planes, -2), -1)


def _double_lines(planes: Planes, axis: int) -> Array:
    before, after = _neighbours(planes, axis, replicate=True)
    pair = (0.75 * planes + 0.25 * before, 0.75 * planes + 0.25 * after)
    shape = list(planes.shape)
    shape[axis] *= 2
    return jnp.stack(pair, axis=planes.ndim + axis + 1).reshape(shape)


def _gather_both(planes: Planes) -> Array:
    return _gather_lines(_gather_lines(planes, -1), -2)


def _gather_lines(planes: Planes, axis: int) -> Array:
    """The transpose of `_double_lines`."""
    even, odd = (_take(planes, axis, slice(parity, None, 2)) for parity in (0, 1))
    # Beyond the edges the line had repeated itself: what was given there comes back to its end.
    before = _neighbours(odd, axis, replicate=False)[0]
    after = _neighbours(even, axis, replicate=False)[1]
    size = even.shape[axis]
    first = _take(even, axis, slice(0, 1))
    last = _take(odd, axis, slice(size - 1, size))
    at_edges = _at_ends(first, last, size, axis)
    return 0.75 * (even + odd) + 0.25 * (before + after + at_edges)


def _neighbours(planes: Planes, axis: int, *, replicate: bool) -> tuple[Array, Array]:
    """Every pixel's predecessor and successor along an axis; beyond the ends the end, or zero."""
    size = planes.shape[axis]
    first, last = _take(planes, axis, slice(0, 1)), _take(planes, axis, slice(size - 1, size))
    if not replicate:
        first, last = jnp.zeros_like(first), jnp.zeros_like(last)
    before = jnp.concatenate([first, _take(planes, axis, slice(0, size - 1))], axis=axis)
    after = jnp.concatenate([_take(planes, axis, slice(1, size)), last], axis=axis)
    return before, after


def _at_ends(first: Array, last: Array, size: int, axis: int) -> Array:
    """A line that is zero but for its ends."""
    if size == 1:
        return first + last
    shape = list(first.shape)
    shape[axis] = size - 2
    return jnp.concatenate([first, jnp.zeros(shape, first.dtype), last], axis=axis)


def _take(planes: Planes, axis: int, chosen: slice) -> Array:
    index = [slice(None)] * planes.ndim
    index[axis] = chosen
    return planes[tuple(index)]


_double = with_transpose(_double_both, _gather_both)
_shrink = with_transpose(
    lambda planes: 0.25 * _gather_both(planes), lambda shrunk: 0.25 * _double_both(shrunk)
)


def _cubic_lines(planes: Planes, axis: int) -> Array:
    """Doubling along one axis with the weights `CUBIC`; edges replicated."""
    size = planes.shape[axis]
    margins = [(0, 0)] * planes.ndim
    margins[axis] = (2, 2)
    padded = jnp.pad(planes, margins, mode="edge")
    around = [_take(padded, axis, slice(first, first + size)) for first in range(5)]
    pair = (
        sum(weight * plane for weight, plane in zip(weights, planes_there, strict=True))
        for weights, planes_there in ((CUBIC[7::-2], around[:4]), (CUBIC[6::-2], around[1:]))
    )
    shape = list(planes.shape)
    shape[axis] *= 2
    return jnp.stack(tuple(pair), axis=planes.ndim + axis + 1).reshape(shape)
