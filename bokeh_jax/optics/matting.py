"""Unmixing the pixels on a silhouette, which hold light of two surfaces.

A photograph's pixel on a silhouette is I = t N + (1 - t) F, with N the colour of the nearer
surface, F that of the farther one and t the nearer one's share. A disparity map names one surface
only. Were the whole pixel to go with that surface, a sharp subject would keep a seam of its sharp
background, and a blurred one would lose its rim.

Each colour is estimated from the pixels nearby that lie off every silhouette and at that surface's
depth. The share is then the least-squares solution (the colour line of Smith & Blinn, "Blue screen
matting", SIGGRAPH 1996), drawn towards what the disparity map says, t0 = 1 on the nearer side and 0
on the farther one::

    t = (<I - F, N - F> + e t0) / (<N - F, N - F> + e)

and held to its own side of one half. The residual R = I - t N - (1 - t) F goes to both surfaces by
the squares of their shares, the smallest change of N and F that explains the pixel, so that the two
parts of the light add up to I.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from bokeh_jax.optics.linear import channels, from_channels, kept, stepwise, unstack
from bokeh_jax.optics.local_color import Plane, collect, dot

# Weight of the disparity map's word, relative to the energy of the two colours.
_DAMPING = 0.1
# Off-silhouette neighbours needed for full trust, in units of the nearest neighbour's weight.
_FULL_TRUST = 0.2
_TINY = 1e-12

Colors = tuple[Plane, ...]


class Surfaces(NamedTuple):
    """The one or two surfaces that each pixel shows.

    Attributes:
        near_px, far_px: signed radii of the nearer and the farther surface.
        near_share: the nearer one's share of the pixel; 1 or 0 off the silhouettes.
        near_light: light that the nearer one gives to the pixel, its colour times its share.
    """

    near_px: Float[Array, "b 1 h w"]
    far_px: Float[Array, "b 1 h w"]
    near_share: Float[Array, "b 1 h w"]
    near_light: Float[Array, "b 3 h w"]


def split_silhouettes(
    image: Float[Array, "b 3 h w"],
    signed_radius_px: Float[Array, "b 1 h w"],
    same_surface_px: float | int,
) -> Surfaces:
    """Find the two surfaces of every pixel and share its light out between them.

    Args:
        image: linear light, not negative.
        signed_radius_px: signed blur radii of the surface that the disparity map names.
        same_surface_px: neighbours whose radii differ by less belong to one surface; a silhouette
            counts in full from twice this difference on.

    Returns:
        Where a pixel is not on a silhouette, all of its light with its own surface, bit for bit.
    """
    highest = highest_of_neighbours(signed_radius_px)
    lowest = -highest_of_neighbours(-signed_radius_px)
    silhouette = jnp.clip((highest - lowest) / same_surface_px - 1, 0, 1)
    is_near = (highest - signed_radius_px) <= (signed_radius_px - lowest)
    near_px = jnp.where(is_near, signed_radius_px, highest)
    far_px = jnp.where(is_near, lowest, signed_radius_px)
    near_color, near_trust, far_color, far_trust = _local_colors(
        image, signed_radius_px, 1 - silhouette, (near_px, far_px), same_surface_px
    )
    trust = silhouette[:, 0] * near_trust * far_trust
    share, light = _unmix(channels(image), near_color, far_color, is_near[:, 0], trust)
    return Surfaces(near_px, far_px, share[:, None], from_channels(light))


def _local_colors(
    image: Float[Array, "b 3 h w"],
    signed_radius_px: Float[Array, "b 1 h w"],
    pure: Float[Array, "b 1 h w"],
    surfaces_px: tuple[Float[Array, "b 1 h w"], Float[Array, "b 1 h w"]],
    same_surface_px: float | int,
) -> tuple[Colors, Plane, Colors, Plane]:
    """Colour of each surface around every pixel and how far it can be trusted, in [0, 1]."""
    colors, known, radius_px = channels(image), pure[:, 0], signed_radius_px[:, 0]
    planes = (*(color * known for color in colors), known)

    def of_surface(surface_px):
        *sums, weight = collect(planes, radius_px, surface_px, same_surface_px)
        color = tuple(total / jnp.maximum(weight, _TINY) for total in sums)
        return color, jnp.minimum(1.0, weight / _FULL_TRUST)

    # A loop, so that the sums over the neighbours are compiled once for both.
    asked = jnp.stack([surface_px[:, 0] for surface_px in surfaces_px])
    (red, green, blue), trust = jax.tree.map(unstack, jax.lax.map(of_surface, asked))
    near, far = ((red[i], green[i], blue[i]) for i in (0, 1))
    return near, trust[0], far, trust[1]


def _unmix(
    image: Colors,
    near_color: Colors,
    far_color: Colors,
    is_near: Bool[Array, "b h w"],
    trust: Plane,
) -> tuple[Plane, Colors]:
    """The nearer surface's share of each pixel and its light; see the module's head."""
    named = is_near.astype(trust.dtype)
    share = _share(image, near_color, far_color, named, trust)
    red, green, blue = (
        _near_light(color, near, far, share, named, trust)
        for color, near, far in zip(image, near_color, far_color, strict=True)
    )
    return share, (red, green, blue)


@stepwise
def _share(image: Colors, near_color: Colors, far_color: Colors, named: Plane, trust: Plane):
    """The nearer surface's share; `named` is one where the disparity map names that surface."""
    contrast = [near - far for near, far in zip(near_color, far_color, strict=True)]
    energy = dot(near_color, near_color) + dot(far_color, far_color)
    damping = _DAMPING * energy + _TINY
    off_far = [color - far for color, far in zip(image, far_color, strict=True)]
    share = (dot(off_far, contrast) + damping * named) / (dot(contrast, contrast) + damping)
    share = jnp.clip(share, 0.5 * named, 0.5 + 0.5 * named)
    return named + trust * (share - named)


@stepwise
def _near_light(color: Plane, near: Plane, far: Plane, share: Plane, named: Plane, trust: Plane):
    """One colour of the nearer surface's light."""
    near_part = share**2 / (share**2 + (1 - share) ** 2)
    residual = color - share * near - (1 - share) * far
    light = jnp.clip(share * near + near_part * residual, 0.0, color)
    # Off the silhouettes rounding must not move light from one surface to the other.
    return jnp.where(trust > 0, light, color * named)


@jax.custom_vjp
def highest_of_neighbours(plane: Float[Array, "*n h w"]) -> Float[Array, "*n h w"]:
    """The greatest value in each pixel's 3 x 3 neighbourhood; its slope goes to all that have it.

    Differentiable in reverse mode.
    """
    rows = functools.reduce(jnp.maximum, _shifted(plane, -2, -jnp.inf))
    return functools.reduce(jnp.maximum, _shifted(rows, -1, -jnp.inf))


def _highest_forward(plane: Array) -> tuple[Array, tuple[Array, Array]]:
    highest = highest_of_neighbours(plane)
    return highest, (plane, highest)


def _highest_backward(saved: tuple[Array, Array], slopes: Array) -> tuple[Array]:
    """Written out: the transposes of slices and maxima would be computed many times over."""
    plane, highest = saved

    def share(plane, highest, slopes):
        around = [
            shifted
            for row in _shifted(plane, -2, -jnp.inf)
            for shifted in _shifted(row, -1, -jnp.inf)
        ]
        count = sum((value == highest).astype(plane.dtype) for value in around)
        return slopes / count

    def collect(plane, highest, shares):
        total = jnp.zeros_like(plane)
        for rows in zip(_shifted(highest, -2, jnp.inf), _shifted(shares, -2, 0.0), strict=True):
            for value, given in zip(
                *(_shifted(row, -1, fill) for row, fill in zip(rows, (jnp.inf, 0.0), strict=True)),
                strict=True,
            ):
                total += jnp.where(plane == value, given, 0.0)
        return total

    return (kept(collect, plane, highest, kept(share, plane, highest, slopes)),)


highest_of_neighbours.defvjp(_highest_forward, _highest_backward)


def _shifted(plane: Array, axis: int, beyond: float) -> list[Array]:
    """A plane as each pixel's predecessor, itself and its successor along an axis have it."""
    margins = [(0, 0)] * plane.ndim
    margins[axis] = (1, 1)
    padded = jnp.pad(plane, margins, constant_values=beyond)
    size = plane.shape[axis]
    return [jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(3)]
