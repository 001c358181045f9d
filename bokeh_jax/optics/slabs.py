"""Drawing the slabs of one stage over what lies farther.

A slab (see `layer_plan`) holds the surfaces between two signed radii, with w the share of a pixel
that belongs to it. Its kernel for the radius r is interpolated between those of its nodes, so with
l_j the interpolation's weights and B_j the convolution with node j's kernel, a plane P is blurred
by sum over j of B_j(l_j(r) P). What is drawn depends on two more shares of every pixel::

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
from bokeh_jax.optics.blur import blur_sum, fast_fft_size
from bokeh_jax.optics.hidden import fill_coarse
from bokeh_jax.optics.layer_kernels import slab_kernels
from bokeh_jax.optics.layer_plan import NODES_A_SLAB, Slab
from bokeh_jax.optics.linear import channels, from_channels
from bokeh_jax.optics.local_color import Plane
from bokeh_jax.optics.matting import Colors
from bokeh_jax.optics.resample import double
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
    """What tells the slabs of a stage apart, one row for each, from far to near; radii in pixels.

    NumPy arrays where they are made, so that constants are known as such; traced in the loop.

    Attributes:
        before, first, last, after: signed radii between which a surface belongs to the slab, in
            full from first to last.
        hidden: signed radii of a surface that begins to hide the slab and of one that hides it.
        polynomials: see `Slab.polynomials`.
        kernels: of the nodes, by zone.
    """

    before: Float[Array, " s"]
    first: Float[Array, " s"]
    last: Float[Array, " s"]
    after: Float[Array, " s"]
    hidden: Float[Array, "s 2"]
    polynomials: Float[Array, "s n n"]
    kernels: Float[Array, "s n z k k"]

    def weight(self, signed_px: Array) -> Array:
        """Share of a surface that belongs to the slab."""
        rising = _ramp(signed_px, self.before, self.first)
        return jnp.minimum(rising, 1 - _ramp(signed_px, self.last, self.after))

    def up_to(self, signed_px: Array) -> Array:
        """Share of a surface that belongs to the slab or to farther ones."""
        return 1 - _ramp(signed_px, self.last, self.after)

    def hides(self, signed_px: Array) -> Array:
        """Whether a surface hides the slab, between 0 and 1."""
        return _ramp(signed_px, self.hidden[0], self.hidden[1])

    def node_share(self, node: int, signed_px: Array) -> Array:
        """How much of a node's kernel makes up the kernel of a radius; one in sum over the nodes.

        Radii outside the slab have the kernel of its nearest end.
        """
        middle, half = (self.last + self.first) / 2, (self.last - self.first) / 2
        place = (jnp.clip(signed_px, self.first, self.last) - middle) / jnp.where(
            half > 0, half, 1.0
        )
        share = jnp.zeros_like(place)
        for factor in self.polynomials[node][::-1]:
            share = share * place + factor
        return share


def slab_arrays(
    slabs: tuple[Slab, ...],
    level: int,
    half_size_px: int,
    aperture: Aperture,
    frame: tuple[int, int],
    dtype: jnp.dtype,
) -> Slabs:
    """Slabs of one level as arrays, with their kernels of a half size."""
    rows: dict[str, Any] = {
        "before": [slab.before_px for slab in slabs],
        "first": [slab.first_px for slab in slabs],
        "last": [slab.last_px for slab in slabs],
        "after": [slab.after_px for slab in slabs],
        "hidden": [_hiding_px(slab) for slab in slabs],
        "polynomials": [slab.polynomials(NODES_A_SLAB) for slab in slabs],
    }
    arrays: dict[str, Any] = {name: np.asarray(row, dtype) for name, row in rows.items()}
    arrays["kernels"] = slab_kernels(aperture, slabs, level, half_size_px, frame).astype(dtype)
    return Slabs(**arrays)


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
    rows = {
        "before": in_focus.before_px,
        "first": 0.0,
        "last": 0.0,
        "after": in_focus.after_px,
        "hidden": _hiding_px(in_focus),
        "polynomials": in_focus.polynomials(1),
        "kernels": np.ones((1, 1, 1, 1)),
    }
    slab = Slabs(**{name: jnp.asarray(row, scene.near.dtype) for name, row in rows.items()})
    (planes,) = _node_planes(scene, double(_fill(coarser, slab)), slab)
    return over(_normalised(planes), behind)


def padded_scene(scene: Scene, half_size_px: int, *, for_transforms: bool) -> Scene:
    """A scene with room for kernels of an even half size around it, in even numbers of pixels."""
    size = [length + 2 * half_size_px for length in scene.frame]
    height, width = (fast_fft_size(n) if for_transforms else n + n % 2 for n in size)
    return scene.padded((height, width), half_size_px)


def draw_slabs(
    scene: Scene,
    padded: Scene,
    coarser: Scene,
    taps: Taps | None,
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
        hats: weights of the aperture's zones at this resolution.
        slabs: see `Slabs`.
        behind: what lies farther.
    """
    half_size_px, size = slabs.kernels.shape[-1] // 2, padded.frame

    def blur(planes: list[list[Array]], slab: Slabs) -> list[Plane]:
        if taps is not None:
            return sum_taps(planes, slab.kernels[:, 0], taps, scene.frame)
        return blur_sum(planes, slab.kernels, hats, size, scene.frame)

    def add_slab(picture: Picture, slab: Slabs):
        def draw(picture: Picture) -> Picture:
            filled = pad_to(_fill(coarser, slab), (size[0] // 2, size[1] // 2), half_size_px // 2)
            planes = blur(_node_planes(padded, double(filled), slab), slab)
            return over(_normalised(checkpoint_name(planes, _KEPT)), picture)

        weight = scene.share(slab.weight)
        return jax.lax.cond(jnp.any(weight > 0), draw, lambda same: same, picture), None

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


def _node_planes(scene: Scene, filled: Float[Array, "b 5 h w"], slab: Slabs) -> list[list[Plane]]:
    """What the kernels of a slab's nodes average: colours, opacity and the normaliser."""
    *fill, opacity, radius_px = channels(filled)
    seen, weight = scene.share(slab.up_to), scene.share(slab.weight)
    hidden = scene.share(slab.hides)
    invented = hidden * opacity
    # What is not the slab is seen past it, as its surface would be if it went on.
    other = seen - weight + hidden
    nodes = []
    for node in range(slab.polynomials.shape[0]):
        share, light = scene.share_and_light(
            lambda px, node=node: slab.weight(px) * slab.node_share(node, px)
        )
        own = slab.node_share(node, radius_px)
        of_invented = invented * own
        red, green, blue = (a + of_invented * b for a, b in zip(light, fill, strict=True))
        nodes.append([red, green, blue, share + of_invented, share + other * own])
    return nodes


def _fill(coarser: Scene, slab: Slabs) -> Float[Array, "b 5 h2 w2"]:
    """Colours, opacity and radius of a slab where it is hidden, at the coarser resolution."""
    weight, light = coarser.share_and_light(slab.weight)
    radius_px = coarser.share(lambda px: slab.weight(px) * px)
    seen = coarser.share(slab.up_to)
    return fill_coarse(
        from_channels((*light, weight, radius_px)),
        from_channels((weight, weight, weight, seen, weight)),
    )


def _ramp(signed_px: Array, zero_px: Array, one_px: Array) -> Array:
    """From 0 at one radius to 1 at another, constant outside."""
    return jnp.clip((signed_px - zero_px) / (one_px - zero_px), 0.0, 1.0)
