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

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

# Colours are collected within this Chebyshev distance; two pixels pass the blurred silhouettes of
# a resampled photograph, and more would reach past thin structures and details.
_REACH_PX = 2
# Weight of the disparity map's word, relative to the energy of the two colours.
_DAMPING = 0.1
# Off-silhouette neighbours needed for full trust, in units of the nearest neighbour's weight.
_FULL_TRUST = 0.2
_TINY = 1e-12


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
    highest = _highest_of_neighbours(signed_radius_px)
    lowest = -_highest_of_neighbours(-signed_radius_px)
    silhouette = jnp.clip((highest - lowest) / same_surface_px - 1, 0, 1)
    is_near = (highest - signed_radius_px) <= (signed_radius_px - lowest)
    near_px = jnp.where(is_near, signed_radius_px, highest)
    far_px = jnp.where(is_near, lowest, signed_radius_px)
    near_color, near_trust, far_color, far_trust = _local_colors(
        image, signed_radius_px, 1 - silhouette, (near_px, far_px), same_surface_px
    )
    trust = silhouette * near_trust * far_trust
    share, light = _unmix(image, near_color, far_color, is_near, trust)
    return Surfaces(near_px, far_px, share, light)


def _local_colors(
    image: Float[Array, "b 3 h w"],
    signed_radius_px: Float[Array, "b 1 h w"],
    pure: Float[Array, "b 1 h w"],
    surfaces_px: tuple[Float[Array, "b 1 h w"], Float[Array, "b 1 h w"]],
    same_surface_px: float | int,
) -> tuple[Array, Array, Array, Array]:
    """Colour of each surface around every pixel and how far it can be trusted, in [0, 1]."""
    planes = jnp.concatenate([image * pure, pure, signed_radius_px], axis=1)
    height, width = planes.shape[-2:]
    margins = ((0, 0), (0, 0), (_REACH_PX, _REACH_PX), (_REACH_PX, _REACH_PX))
    # Nothing is known beyond the frame: zero weight there.
    padded = jnp.pad(planes, margins)

    def add_offset(sums, offset):
        dy, dx = offset
        window = jax.lax.dynamic_slice(
            padded,
            (0, 0, _REACH_PX + dy, _REACH_PX + dx),
            (*planes.shape[:2], height, width),
        )
        falloff = 1 / (1 + dx * dx + dy * dy).astype(planes.dtype)
        added = []
        for total, surface_px in zip(sums, surfaces_px, strict=True):
            alike = jnp.maximum(0.0, 1 - jnp.abs(window[:, 4:] - surface_px) / same_surface_px)
            added.append(total + window[:, :4] * (alike * falloff))
        return tuple(added), None

    steps = np.arange(-_REACH_PX, _REACH_PX + 1)
    offsets = tuple(jnp.asarray(o.ravel()) for o in np.meshgrid(steps, steps, indexing="ij"))
    nothing = (jnp.zeros_like(planes[:, :4]),) * 2
    (near, far), _ = jax.lax.scan(jax.checkpoint(add_offset, prevent_cse=False), nothing, offsets)
    near_color, far_color = (s[:, :3] / jnp.maximum(s[:, 3:], _TINY) for s in (near, far))
    near_trust, far_trust = (jnp.minimum(1.0, s[:, 3:] / _FULL_TRUST) for s in (near, far))
    return near_color, near_trust, far_color, far_trust


def _unmix(
    image: Float[Array, "b 3 h w"],
    near_color: Float[Array, "b 3 h w"],
    far_color: Float[Array, "b 3 h w"],
    is_near: Bool[Array, "b 1 h w"],
    trust: Float[Array, "b 1 h w"],
) -> tuple[Float[Array, "b 1 h w"], Float[Array, "b 3 h w"]]:
    """The nearer surface's share of each pixel and its light; see the module's head."""
    named = is_near.astype(image.dtype)
    contrast = near_color - far_color
    energy = _sum_colors(near_color * near_color + far_color * far_color)
    damping = _DAMPING * energy + _TINY
    share = (_sum_colors((image - far_color) * contrast) + damping * named) / (
        _sum_colors(contrast * contrast) + damping
    )
    share = jnp.clip(share, 0.5 * named, 0.5 + 0.5 * named)
    share = named + trust * (share - named)
    residual = image - share * near_color - (1 - share) * far_color
    near_part = share**2 / (share**2 + (1 - share) ** 2)
    light = jnp.clip(share * near_color + near_part * residual, 0.0, image)
    # Off the silhouettes rounding must not move light from one surface to the other.
    light = jnp.where(trust > 0, light, jnp.where(is_near, image, 0.0))
    return share, light


def _sum_colors(planes: Float[Array, "b 3 h w"]) -> Float[Array, "b 1 h w"]:
    return jnp.sum(planes, axis=1, keepdims=True)


def _highest_of_neighbours(plane: Float[Array, "b 1 h w"]) -> Float[Array, "b 1 h w"]:
    """The greatest value in each pixel's 3 x 3 neighbourhood."""
    padded = jnp.pad(plane, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-jnp.inf)
    rows = jnp.maximum(jnp.maximum(padded[..., :-2, :], padded[..., 1:-1, :]), padded[..., 2:, :])
    return jnp.maximum(jnp.maximum(rows[..., :-2], rows[..., 1:-1]), rows[..., 2:])
