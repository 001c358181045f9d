"""Colours around every pixel, of the neighbours at a given depth alone.

With s the signed radius of the surface that is asked for, d the neighbours' own, v the planes to be
collected and f falling off with the distance::

    out(x) = sum over |o| <= 2 of f_o v(x + o) hat(d(x + o) - s(x)),    hat(u) = max(0, 1 - |u| / h)

The derivatives are sums of the same kind: as the offsets come in pairs (o, -o), what pixel y gives
to its neighbours is collected from them::

    dv(y) = sum f_o g(y + o) hat(d(y) - s(y + o))
    dd(y) = sum f_o <g(y + o), v(y)> hat'(d(y) - s(y + o))
    ds(x) = - sum f_o <g(x), v(x + o)> hat'(d(x + o) - s(x))

They are written out because the transposes that automatic differentiation makes of 25 shifted
windows write every one of them to memory: ten times slower. For the same reason planes are separate
arrays and the sums are unrolled, so that each becomes one fused loop.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bokeh_jax.optics.linear import kept

# Colours are collected within this Chebyshev distance; two pixels pass the blurred silhouettes of
# a resampled photograph, and more would reach past thin structures and details.
_REACH_PX = 2
_OFFSETS = tuple(
    (dy, dx, 1 / (1 + dx * dx + dy * dy))
    for dy in range(-_REACH_PX, _REACH_PX + 1)
    for dx in range(-_REACH_PX, _REACH_PX + 1)
)

Plane = Float[Array, "b h w"]


def collect(
    values: tuple[Plane, ...], radius_px: Plane, asked_px: Plane, half_width_px: float | int
) -> tuple[Plane, ...]:
    """Weighted sums of the neighbours whose radius is close to the one asked for.

    Differentiable in reverse mode. Beyond the frame nothing is known: zero weight.

    Args:
        values: planes to be collected.
        radius_px: signed radius of every pixel.
        asked_px: signed radius that neighbours should have, pixel by pixel.
        half_width_px: a neighbour that differs by this much or more has no weight; static.
    """
    return _collect(values, radius_px / half_width_px, asked_px / half_width_px)


@jax.custom_vjp
def _collect(values: tuple[Plane, ...], radius: Plane, asked: Plane) -> tuple[Plane, ...]:
    return kept(_sums, values, radius, asked)


def _sums(values: tuple[Plane, ...], radius: Plane, asked: Plane) -> tuple[Plane, ...]:
    padded, radii = [_pad(plane) for plane in values], _pad(radius)
    sums = [jnp.zeros_like(plane) for plane in values]
    for offset in _OFFSETS:
        weight = offset[2] * _hat(_window(radii, offset, asked) - asked)
        sums = [
            total + _window(plane, offset, asked) * weight
            for total, plane in zip(sums, padded, strict=True)
        ]
    return tuple(sums)


def _forward(values: tuple[Plane, ...], radius: Plane, asked: Plane):
    return _collect(values, radius, asked), (values, radius, asked)


def _backward(saved, cotangents: tuple[Plane, ...]):
    values, radius, asked = saved
    of_values, of_radius = kept(_slopes_given, cotangents, values, radius, asked)
    return of_values, of_radius, kept(_slopes_asked, cotangents, values, radius, asked)


def _slopes_given(cotangents, values, radius: Plane, asked: Plane):
    """Slopes of the values and of their radii: of what every pixel gives to its neighbours."""
    gains, asked_padded = [_pad(plane) for plane in cotangents], _pad(asked)
    of_values, of_radius = [jnp.zeros_like(plane) for plane in values], jnp.zeros_like(radius)
    for offset in _OFFSETS:
        given = [_window(plane, offset, asked) for plane in gains]
        difference = radius - _window(asked_padded, offset, asked)
        weight = offset[2] * _hat(difference)
        of_values = [total + gain * weight for total, gain in zip(of_values, given, strict=True)]
        of_radius = of_radius + offset[2] * _hat_slope(difference) * dot(given, values)
    return tuple(of_values), of_radius


def _slopes_asked(cotangents, values, radius: Plane, asked: Plane) -> Plane:
    """Slopes of the radii asked for: of what every pixel takes from its neighbours."""
    padded, radii = [_pad(plane) for plane in values], _pad(radius)
    of_asked = jnp.zeros_like(asked)
    for offset in _OFFSETS:
        taken = [_window(plane, offset, asked) for plane in padded]
        slope = offset[2] * _hat_slope(_window(radii, offset, asked) - asked)
        of_asked = of_asked - slope * dot(cotangents, taken)
    return of_asked


_collect.defvjp(_forward, _backward)


def _hat(difference: Plane) -> Plane:
    return jnp.maximum(0.0, 1 - jnp.abs(difference))


def _hat_slope(difference: Plane) -> Plane:
    return jnp.where(jnp.abs(difference) < 1, -jnp.sign(difference), 0.0)


def dot(left: Sequence[Plane], right: Sequence[Plane]) -> Plane:
    """Sum of the products of planes; additions are fused where a reduction would not be."""
    products = [a * b for a, b in zip(left, right, strict=True)]
    return sum(products[1:], products[0])


def _pad(plane: Plane) -> Float[Array, "b hp wp"]:
    return jnp.pad(plane, ((0, 0), (_REACH_PX, _REACH_PX), (_REACH_PX, _REACH_PX)))


def _window(padded: Float[Array, "b hp wp"], offset: tuple[int, int, float], like: Plane) -> Plane:
    """The plane as its neighbours at an offset see it."""
    height, width = like.shape[-2:]
    top, left = _REACH_PX + offset[0], _REACH_PX + offset[1]
    return padded[:, top : top + height, left : left + width]
