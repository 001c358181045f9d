"""Drawing the slabs of one level over what lies farther.

A slab holds neighbouring layers k, at positions among the layers (see `layer_plan`) that run from
far to near. Its weight w is the sum of their hat functions w_k. With the slab's nearest layer n,
and T_n layers making up a pixel of radius plus a share of the radius::

    seen   = share of surfaces at n or farther      what is visible here is it, or farther
    hidden = 1 - share at n + T_n or farther        something really nearer hides it here

A surface that goes on towards the viewer by less than T_n hides nothing: it is then neither seen
nor hidden, and leaves the average. The share grows with the radius, because the wider the kernel,
the farther a slanted surface goes on inside it.

Where the slab is hidden, its opacity a = w / seen and its colour c are invented by interpolation
from where they are seen (`hidden`), on the next coarser level: invented content is smooth. With B_k
the convolution with layer k's kernel and m the widest of them::

    opaque  = sum over k of B_k(w_k)  + B_m(hidden a)
    color   = sum over k of B_k(w_k I) + B_m(hidden a c)          premultiplied
    covered = opaque + B_m(seen - w + hidden - hidden a)
    alpha   = opaque / covered,      over:  out <- out (1 - alpha) + color / covered

The normalisation makes a slanted surface, spread over many slabs, opaque and free of seams. Sums
over k are taken in the frequency domain: a slab costs one inverse transform.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from bokeh_jax.optics.aperture import Aperture
from bokeh_jax.optics.blur import blur_sum, fast_fft_size
from bokeh_jax.optics.hidden import fill_coarse
from bokeh_jax.optics.layer_kernels import outermost_first, slab_kernels
from bokeh_jax.optics.layer_plan import LayerPlan, Slab
from bokeh_jax.optics.linear import channels, from_channels
from bokeh_jax.optics.local_color import Plane
from bokeh_jax.optics.matting import Colors
from bokeh_jax.optics.resample import double
from bokeh_jax.optics.small_kernels import crop, small_kernel_taps, sum_taps
from bokeh_jax.optics.surfaces import Scene, pad_to

# What is nearer by less than this, plus this share of the layer's own radius, hides nothing: it is
# the same surface going on. Slopes of 0.2 px a pixel lose 15 dB without the share.
SAME_SURFACE_PX = 1.0
SAME_SURFACE_SHARE = 0.4
# Least covered share of a kernel that is divided by; below it rounding would be amplified.
LEAST_COVERAGE = 1e-2
# Position of a layer that a slab lacks: no surface comes near it.
_NOWHERE = -1e6


class Picture(NamedTuple):
    """Premultiplied light, by colour, and how much of the pixel it covers."""

    light: Colors
    coverage: Plane


class Slabs(NamedTuple):
    """What tells the slabs of a stage apart, one row for each, from far to near.

    NumPy arrays where they are made, so that constants are known as such; traced in the loop.

    Attributes:
        first, last: positions of the farthest and the nearest layer.
        beyond: position from which on a surface hides the slab.
        layers: positions of the layers, that of the widest kernel first.
        kernels: of the layers, by zone.
        is_sharp: the slab of the layer in focus.
    """

    first: Float[Array, " s"]
    last: Float[Array, " s"]
    beyond: Float[Array, " s"]
    layers: Float[Array, "s n"]
    kernels: Float[Array, "s n z k k"]
    is_sharp: Bool[Array, " s"]


def slab_arrays(
    plan: LayerPlan,
    slabs: tuple[Slab, ...],
    level: int,
    aperture: Aperture,
    frame: tuple[int, int],
    dtype: jnp.dtype,
) -> Slabs:
    """Slabs of one level as arrays, with their kernels."""
    kernels = slab_kernels(aperture, plan, slabs, level, frame)
    layers = np.full(kernels.shape[:2], _NOWHERE)
    for s, slab in enumerate(slabs):
        positions = outermost_first(slab)
        layers[s, : len(positions)] = positions
    rows = {
        "first": np.array([slab.first for slab in slabs], dtype),
        "last": np.array([slab.last for slab in slabs], dtype),
        "beyond": np.array([_position_beyond(plan, slab) for slab in slabs], dtype),
        "layers": layers.astype(dtype),
        "kernels": kernels.astype(dtype),
        "is_sharp": np.array([slab.first == slab.last == 0 for slab in slabs]),
    }
    return Slabs(**rows)


def _position_beyond(plan: LayerPlan, slab: Slab) -> float:
    """The position of a surface that is no longer this one going on."""
    widest_px = plan.radii_px[max(abs(slab.first), abs(slab.last))]
    beyond_px = plan.signed_radius_px(slab.last) + SAME_SURFACE_PX + SAME_SURFACE_SHARE * widest_px
    signed_px = [
        plan.signed_radius_px(i) for i in range(1 - len(plan.radii_px), len(plan.radii_px))
    ]
    if beyond_px > signed_px[-1]:
        return float(len(plan.radii_px))
    position = np.interp(beyond_px, signed_px, np.arange(len(signed_px)) - len(plan.radii_px) + 1)
    return max(slab.last + 1.0, float(position))


def coarse_hats(
    hats: tuple[Float[Array, "z h"], Float[Array, "z w"]], size: tuple[int, int], level: int
) -> tuple[Float[Array, "z hc"], Float[Array, "z wc"]]:
    """Weights of the zones, averaged over the blocks of a level of (height, width) pixels."""

    def averaged(lines, length):
        surplus = length * 2**level - lines.shape[-1]
        lines = jnp.pad(lines, ((0, 0), (0, surplus)), mode="edge")
        return jnp.mean(lines.reshape(lines.shape[0], length, 2**level), axis=-1)

    return averaged(hats[0], size[0]), averaged(hats[1], size[1])


def draw_slabs(
    scene: Scene,
    coarser: Scene,
    slabs: Slabs,
    hats: tuple[Float[Array, "z h"], Float[Array, "z w"]],
    behind: Picture,
) -> Picture:
    """Draw slabs over what lies farther, far to near; those without any pixel are skipped.

    Args:
        scene: at the level's resolution.
        coarser: at half of it, where hidden content is invented.
        slabs: see `Slabs`.
        hats: weights of the aperture's zones at this resolution.
        behind: what lies farther.
    """
    height, width = scene.frame
    half_size_px = slabs.kernels.shape[-1] // 2
    size = (fast_fft_size(height + 2 * half_size_px), fast_fft_size(width + 2 * half_size_px))
    taps = small_kernel_taps(slabs.kernels)
    if taps is not None:
        size = (height + height % 2 + 2 * half_size_px, width + width % 2 + 2 * half_size_px)
    padded = scene.padded(size, half_size_px)

    def blur(planes: list[list[Array]], slab: Slabs) -> list[Plane]:
        if taps is not None:
            return sum_taps(planes, slab.kernels[:, 0], taps, scene.frame)
        return jax.lax.cond(
            slab.is_sharp,
            lambda planes: [crop(plane, half_size_px, scene.frame) for plane in planes[0]],
            lambda planes: blur_sum(planes, slab.kernels, hats, size, scene.frame),
            planes,
        )

    def add_slab(picture: Picture, slab: Slabs):
        def draw(picture: Picture) -> Picture:
            filled = pad_to(_fill(coarser, slab), (size[0] // 2, size[1] // 2), half_size_px // 2)
            planes = _layer_planes(padded, double(filled), slab)
            *color, opaque, covered = blur(planes, slab)
            gain = 1 / jnp.maximum(covered, LEAST_COVERAGE)
            through = 1 - opaque * gain
            red, green, blue = (
                light * through + own * gain
                for light, own in zip(picture.light, color, strict=True)
            )
            return Picture((red, green, blue), picture.coverage * through + opaque * gain)

        weight = scene.share(lambda position: _between(position, slab.first, slab.last))
        return jax.lax.cond(jnp.any(weight > 0), draw, lambda same: same, picture), None

    # Only the pictures so far are kept for the backward pass; a slab is drawn again from them.
    add_slab = jax.checkpoint(add_slab, prevent_cse=False)
    return jax.lax.scan(add_slab, behind, slabs)[0]


def _layer_planes(scene: Scene, filled: Float[Array, "b 4 h w"], slab: Slabs) -> list[list[Plane]]:
    """What the kernels of a slab's layers average: colours, opacity and the normaliser."""
    *fill, opacity = channels(filled)
    seen = scene.share(lambda position: _up_to(position, slab.last))
    hidden = 1 - scene.share(lambda position: _up_to(position, slab.beyond))
    invented = hidden * opacity
    layers, weight = [], jnp.zeros_like(seen)
    for position in slab.layers:
        share, light = scene.share_and_light(lambda p, position=position: _hat(p, position))
        layers.append([*light, share, share])
        weight += share
    # The widest kernel is the first layer's; it blurs what is invented and what lies elsewhere.
    widest = layers[0]
    layers[0] = [
        *(light + invented * color for light, color in zip(widest[:3], fill, strict=True)),
        widest[3] + invented,
        widest[4] + seen - weight + hidden,
    ]
    return layers


def _fill(coarser: Scene, slab: Slabs) -> Float[Array, "b 4 h2 w2"]:
    """Colours and opacity of a slab where it is hidden, at the coarser resolution."""
    weight, light = coarser.share_and_light(
        lambda position: _between(position, slab.first, slab.last)
    )
    seen = coarser.share(lambda position: _up_to(position, slab.last))
    return fill_coarse(
        from_channels((*light, weight)), from_channels((weight, weight, weight, seen))
    )


def _hat(positions: Array, layer: Array) -> Array:
    """Share of a surface that belongs to a layer."""
    return jnp.maximum(0.0, 1 - jnp.abs(positions - layer))


def _up_to(positions: Array, layer: Array) -> Array:
    """Share of a surface that belongs to a layer or to farther ones: the hats' running sum."""
    return jnp.clip(layer + 1 - positions, 0.0, 1.0)


def _between(positions: Array, first: Array, last: Array) -> Array:
    """Share of a surface that belongs to the layers from first to last."""
    return jnp.clip(positions - first + 1, 0.0, 1.0) - jnp.clip(positions - last, 0.0, 1.0)
