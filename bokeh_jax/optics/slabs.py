"""Drawing the slabs of one stage over what lies farther.

A slab (see `layer_plan`) holds the surfaces between two signed radii, with w the share of a pixel
that belongs to it. Its kernel for the radius r is a mixture of those of its nodes, so with l_j the
share of node j and B_j the convolution with its kernel, a plane P is blurred by
sum over j of B_j(l_j(r) P). What is drawn depends on two more shares of every pixel::

    seen   = share of surfaces in the slab or farther    what is visible here is it, or farther
    hidden = share of surfaces nearer than its nearest end by T or more: really hiding it here

T is a pixel of radius plus a share of the slab's own radius. A surface that goes on towards the
viewer by less than T hides nothing: it is then neither seen nor hidden, and leaves the average.
The share grows with the radius, because the wider the kernel, the farther a slanted surface goes on
inside it.

Where the slab is hidden, its opacity a = w / seen, its colour c and its radius q are invented by
interpolation from where they are seen (`hidden`), on the next coarser level: invented content is
smooth. With p the radius of the surface that is seen, I the light of the pixel::

    opaque  = sum over j of B_j(l_j(p) w   + l_j(q) hidden a)
    color   = sum over j of B_j(l_j(p) w I + l_j(q) hidden a c)              premultiplied
    covered = sum over j of B_j(l_j(p) w   + l_j(q) (seen - w + hidden))
    alpha   = opaque / covered,      over:  out <- out (1 - alpha) + color / covered

What is not the slab counts with the kernel that the slab would have there, so that a surface at a
fixed distance is covered exactly. The normalisation makes a slanted surface, spread over many
slabs, opaque and free of seams.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from bokeh_jax.optics.aperture import Aperture
from bokeh_jax.optics.blur import blur_sum, padded_fft_shape
from bokeh_jax.optics.hidden import fill_coarse
from bokeh_jax.optics.layer_kernels import slab_kernels
from bokeh_jax.optics.layer_plan import Slab
from bokeh_jax.optics.linear import channels, from_channels
from bokeh_jax.optics.local_color import Plane
from bokeh_jax.optics.matting import Colors
from bokeh_jax.optics.resample import double
from bokeh_jax.optics.slab_shares import Reach, Shared, weight, with_kept_shares
from bokeh_jax.optics.small_kernels import Taps, sum_taps
from bokeh_jax.optics.surfaces import Scene, pad_to

# What is nearer by less than this, plus this share of the slab's own radius, hides nothing: it is
# the same surface going on. Slopes of 0.2 px a pixel lose 15 dB without the share.
SAME_SURFACE_PX = 1.0
SAME_SURFACE_SHARE = 0.4
# Least covered share of a kernel that is divided by; below it rounding would be amplified.
LEAST_COVERAGE = 1e-2


# Name of what is kept of a slab for the backward pass.
_KEPT = "blurred planes of a slab"


class Picture(NamedTuple):
    """Premultiplied light, by colour, and how much of the pixel it covers."""

    light: Colors
    coverage: Plane


class Slabs(NamedTuple):
    """What tells the slabs of a stage apart, one row for each, from far to near.

    NumPy arrays where they are made, so that constants are known as such; traced in the loop.

    Attributes:
        reach: their radii.
        kernels: of the nodes, by zone.
    """

    reach: Reach
    kernels: Float[Array | np.ndarray, "s n z k k"]


def slab_arrays(
    slabs: tuple[Slab, ...],
    level: int,
    half_size_px: int,
    aperture: Aperture,
    frame: tuple[int, int],
    dtype: jnp.dtype,
) -> Slabs:
    """Slabs of one level as arrays, with their kernels of a half size."""
    kernels = slab_kernels(aperture, slabs, level, half_size_px, frame).astype(dtype)
    rows = [_reach(slab, kernels.shape[1], dtype) for slab in slabs]
    return Slabs(jax.tree.map(lambda *parts: np.stack(parts), *rows), kernels)


def _reach(slab: Slab, nodes: int, dtype: jnp.dtype) -> Reach:
    radii_px = (slab.before_px, slab.first_px, slab.last_px, slab.after_px, slab.nodes_px[0])
    rows = (*radii_px, slab.step_px, _hiding_px(slab), range(nodes))
    arrays: list[Any] = [np.asarray(row, dtype) for row in rows]
    return Reach(*arrays)


def _hiding_px(slab: Slab) -> tuple[float, float]:
    """Signed radii of a surface that is no longer this one going on."""
    beyond_px = slab.last_px + SAME_SURFACE_PX + SAME_SURFACE_SHARE * slab.widest_px
    return beyond_px, beyond_px + slab.after_px - slab.last_px


def coarse_hats(
    hats: tuple[Float[Array, "z h"], Float[Array, "z w"]], size: tuple[int, int], level: int
) -> tuple[Float[Array, "z hc"], Float[Array, "z wc"]]:
    """Weights of the zones, averaged over the blocks of a level of (height, width) pixels."""

    def averaged(lines, length):
        surplus = length * 2**level - lines.shape[-1]
        lines = jnp.pad(lines, ((0, 0), (0, surplus)), mode="edge")
        return jnp.mean(lines.reshape(lines.shape[0], length, 2**level), axis=-1)

    return averaged(hats[0], size[0]), averaged(hats[1], size[1])


def draw_focus(scene: Scene, coarser: Scene, in_focus: Slab, behind: Picture) -> Picture:
    """Draw what is in focus, which no kernel blurs, over what lies farther."""
    reach = jax.tree.map(jnp.asarray, _reach(in_focus, 1, scene.near.dtype))
    (planes,) = _node_planes(reach, scene, double(_fill(reach, coarser)))
    return over(_normalised(planes), behind)


def padded_scene(scene: Scene, half_size_px: int, *, for_transforms: bool) -> Scene:
    """A scene with room for kernels of an even half size around it, in even numbers of pixels."""
    if for_transforms:
        return scene.padded(padded_fft_shape(scene.frame, half_size_px), half_size_px)
    height, width = (length + 2 * half_size_px for length in scene.frame)
    height, width = height + height % 2, width + width % 2
    return scene.padded((height, width), half_size_px)


def draw_slabs(
    scene: Scene,
    padded: Scene,
    coarser: Scene,
    taps: Taps | None,
    symmetric: bool,
    hats: tuple[Float[Array, "z h"], Float[Array, "z w"]],
    slabs: Slabs,
    behind: Picture,
) -> Picture:
    """Draw slabs over what lies farther, far to near; those without any pixel are skipped.

    Args:
        scene: at the level's resolution.
        padded: the same, see `padded_scene`.
        coarser: at half of it, where hidden content is invented.
        taps: of the kernels, to sum them pixel by pixel; None for transforms.
        symmetric: whether half a turn leaves all kernels as they are.
        hats: weights of the aperture's zones at this resolution.
        slabs: see `Slabs`.
        behind: what lies farther.
    """
    half_size_px, size = slabs.kernels.shape[-1] // 2, padded.frame

    def blur(planes: list[list[Array]], slab: Slabs) -> list[Plane]:
        kernels = jnp.asarray(slab.kernels)
        if taps is not None:
            return sum_taps(planes, kernels[:, 0], taps, scene.frame)
        return blur_sum(planes, kernels, hats, size, scene.frame, symmetric=symmetric)

    def add_slab(picture: Picture, slab: Slabs):
        def draw(picture: Picture) -> Picture:
            filled = _fill(slab.reach, coarser)
            filled = pad_to(filled, (size[0] // 2, size[1] // 2), half_size_px // 2)
            planes = blur(_node_planes(slab.reach, padded, double(filled)), slab)
            return over(_normalised(checkpoint_name(planes, _KEPT)), picture)

        is_used = [jnp.any(weight(slab.reach, px) > 0) for px in (scene.near, scene.far)]
        return jax.lax.cond(is_used[0] | is_used[1], draw, lambda same: same, picture), None

    # Only the pictures so far and the blurred planes are kept for the backward pass.
    policy = jax.checkpoint_policies.save_only_these_names(_KEPT)
    add_slab = jax.checkpoint(add_slab, prevent_cse=False, policy=policy)
    return jax.lax.scan(add_slab, behind, slabs)[0]


def over(front: Picture, behind: Picture) -> Picture:
    """Composite one picture over another."""
    through = 1 - front.coverage
    red, green, blue = (
        color * through + own for color, own in zip(behind.light, front.light, strict=True)
    )
    return Picture((red, green, blue), behind.coverage * through + front.coverage)


def _normalised(planes: list[Plane]) -> Picture:
    """Colours and opacity of a slab, divided by the normaliser."""
    red, green, blue, opaque, covered = planes
    gain = 1 / jnp.maximum(covered, LEAST_COVERAGE)
    return Picture((red * gain, green * gain, blue * gain), opaque * gain)


@with_kept_shares
def _node_planes(
    shared: Shared, reach: Reach, scene: Scene, filled: Float[Array, "b 5 h w"]
) -> list[list[Plane]]:
    """What the kernels of a slab's nodes average: colours, opacity and the normaliser."""
    *fill, opacity, radius_px = channels(filled)
    near, far, own = (shared(reach, px) for px in (scene.near, scene.far, radius_px))
    hidden = scene.share(near.hides, far.hides)
    invented = hidden * opacity
    # What is not the slab is seen past it, as its surface would be if it went on.
    other = scene.share(near.up_to - near.weight, far.up_to - far.weight) + hidden
    nodes = []
    for of_near, of_far, of_own in zip(near.nodes, far.nodes, own.nodes, strict=True):
        share, light = scene.share_and_light(near.weight * of_near, far.weight * of_far)
        of_invented = invented * of_own
        red, green, blue = (a + of_invented * b for a, b in zip(light, fill, strict=True))
        nodes.append([red, green, blue, share + of_invented, share + other * of_own])
    return nodes


def _fill(reach: Reach, coarser: Scene) -> Float[Array, "b 5 h2 w2"]:
    """Colours, opacity and radius of a slab where it is hidden, at the coarser resolution."""
    weighted, confidence = _seen(reach, coarser)
    return fill_coarse(from_channels(weighted), from_channels(confidence))


@with_kept_shares
def _seen(
    shared: Shared, reach: Reach, scene: Scene
) -> tuple[tuple[Plane, ...], tuple[Plane, ...]]:
    """What is seen of a slab, see `_fill`: values times their confidence, and the confidence."""
    near, far = shared(reach, scene.near), shared(reach, scene.far)
    weight, light = scene.share_and_light(near.weight, far.weight)
    radius_px = scene.share(near.weight * scene.near, far.weight * scene.far)
    seen = scene.share(near.up_to, far.up_to)
    return (*light, weight, radius_px), (weight, weight, weight, seen, weight)
