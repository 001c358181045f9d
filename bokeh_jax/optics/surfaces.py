"""A photograph as the one or two surfaces that each of its pixels shows, at any resolution.

A pixel's light is shared by a nearer and a farther surface, see `matting`. A coarse pixel stands
for 2 x 2 of them and has up to eight; those nearer than the middle of their range become its nearer
surface, the others its farther one::

    near = sum q m p / sum q m,    share = sum q m,    light = sum m l,    m = [p > (max + min) / 2]

with p, q and l the signed radius, share and light of each. Where one surface crosses the block,
both halves are close together, and a function that is linear between them loses nothing. There the
light is averaged over 4 x 4 pixels, with weights [1 3 3 1] along either axis, because a mean over
2 x 2 lets through frequencies that the coarse grid cannot tell from lower ones: 3 dB of the error
of kernels of a few pixels. At silhouettes it stays with the four pixels, so that no colour leaks.

What depends on depth, such as the share that belongs to a slab, is then a mean of two values.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bokeh_jax.optics.linear import channels
from bokeh_jax.optics.local_color import Plane
from bokeh_jax.optics.matting import Colors, Surfaces, highest_of_neighbours
from bokeh_jax.optics.resample import quarters, shrink

_TINY = 1e-12
# Radii that differ by less than this within a coarse pixel and its neighbours are one surface's;
# those that differ by twice as much are not.
_SAME_SURFACE_PX = 2.0


class Scene(NamedTuple):
    """A photograph in separate planes and the signed radii of its surfaces.

    Attributes:
        image: linear light of the pixels, by colour.
        near, far: signed radii of the nearer and the farther surface.
        near_share: the nearer one's share of the pixel.
        near_light: the nearer one's part of the light, by colour.
    """

    image: Colors
    near: Plane
    far: Plane
    near_share: Plane
    near_light: Colors

    @property
    def frame(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return (self.near.shape[-2], self.near.shape[-1])

    def share(self, near: Plane, far: Plane) -> Plane:
        """Mean over a pixel's surfaces of what each of them has."""
        return far + (near - far) * self.near_share

    def share_and_light(self, near: Plane, far: Plane) -> tuple[Plane, Colors]:
        """The mean, and the light with each surface's part weighted by what it has."""
        red, green, blue = (
            far * color + (near - far) * light
            for color, light in zip(self.image, self.near_light, strict=True)
        )
        return self.share(near, far), (red, green, blue)

    def padded(self, size: tuple[int, int], first: int = 0) -> "Scene":
        """Continued by edge pixels to (height, width), the frame beginning at `first`."""
        return jax.tree.map(lambda plane: pad_to(plane, size, first), self)


def make_scene(image: Float[Array, "b 3 h w"], surfaces: Surfaces) -> Scene:
    """A photograph and its surfaces in separate planes."""
    red, green, blue = channels(image)
    near_red, near_green, near_blue = channels(surfaces.near_light)
    return Scene(
        (red, green, blue),
        surfaces.near_px[:, 0],
        surfaces.far_px[:, 0],
        surfaces.near_share[:, 0],
        (near_red, near_green, near_blue),
    )


def coarsen(scene: Scene) -> Scene:
    """The scene at half the resolution; height and width must be even."""
    radii_px = (*quarters(scene.near), *quarters(scene.far))
    near_shares = quarters(scene.near_share)
    shares = (*near_shares, *(1 - share for share in near_shares))
    # A surface without a share of its pixel says nothing of where surfaces lie.
    highest = _greatest(
        [jnp.where(q > 0, p, -jnp.inf) for p, q in zip(radii_px, shares, strict=True)]
    )
    lowest = -_greatest(
        [jnp.where(q > 0, -p, -jnp.inf) for p, q in zip(radii_px, shares, strict=True)]
    )
    middle = 0.5 * (highest + lowest)
    is_near = [(p > middle).astype(middle.dtype) for p in radii_px]
    near, near_share = _mean_radius(radii_px, shares, is_near)
    far, _ = _mean_radius(radii_px, shares, [1 - m for m in is_near])
    smoothly = _one_surface(highest, lowest)
    image, near_light = [], []
    for color, light in zip(scene.image, scene.near_light, strict=True):
        colors, lights = quarters(color), quarters(light)
        parts = (*lights, *(c - part for c, part in zip(colors, lights, strict=True)))
        mean = 0.25 * _total(colors)
        change = smoothly * (shrink(color) - mean)
        image.append(mean + change)
        of_near = 0.25 * _total([m * p for m, p in zip(is_near, parts, strict=True)])
        near_light.append(of_near + near_share * change)
    return Scene(
        (image[0], image[1], image[2]),
        jnp.where(near_share > 0, near, far),
        jnp.where(near_share < 1, far, near),
        near_share,
        (near_light[0], near_light[1], near_light[2]),
    )


def _one_surface(highest: Plane, lowest: Plane) -> Plane:
    """One where a single surface crosses a coarse pixel and its neighbours, zero at silhouettes."""
    range_px = highest_of_neighbours(highest) + highest_of_neighbours(-lowest)
    return jnp.clip(2 - range_px / _SAME_SURFACE_PX, 0.0, 1.0)


def pad_to(
    planes: Float[Array, "*n h w"], size: tuple[int, int], first: int = 0
) -> Float[Array, "*n hp wp"]:
    """Continue planes by their edge values to (height, width), themselves beginning at `first`."""
    margins = [
        (first, wanted - first - have) for wanted, have in zip(size, planes.shape[-2:], strict=True)
    ]
    return jnp.pad(planes, [(0, 0)] * (planes.ndim - 2) + margins, mode="edge")


def _greatest(planes: Sequence[Plane]) -> Plane:
    return functools.reduce(jnp.maximum, planes)


def _total(planes: Sequence[Plane]) -> Plane:
    return functools.reduce(jnp.add, planes)


def _mean_radius(
    radii_px: Sequence[Plane], shares: Sequence[Plane], chosen: Sequence[Plane]
) -> tuple[Plane, Plane]:
    """Mean radius of the chosen surfaces and their share of the coarse pixel."""
    weights = [m * q for m, q in zip(chosen, shares, strict=True)]
    share = _total(weights)
    total = _total([weight * p for weight, p in zip(weights, radii_px, strict=True)])
    return total / jnp.maximum(share, _TINY), 0.25 * share
