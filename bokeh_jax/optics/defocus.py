"""Lens blur of a photograph with a disparity map: layers of fixed signed radius.

Every pixel has the signed radius s(x) = K (d(x) - d_f). Layers lie at fixed signed radii c_j,
ascending from far to near; hat functions share each pixel out between the two layers around its
radius. With w_j(x) = max(0, 1 - |s - c_j| / spacing)::

    seen_j   = sum over k <= j of w_k            what is visible at x is here or farther
    hidden_j = 1 - seen_(j + T_j)                something really nearer hides this layer at x

A surface that goes on towards the viewer by less than T_j layers hides nothing: x is then neither
seen nor hidden, and leaves the average. T_j is a pixel of radius plus a share of |c_j|, because the
wider the kernel, the farther a slanted surface goes on inside it. Where a layer is hidden, its
opacity a_j = w_j / seen_j and its colour are invented by smooth interpolation (`hidden`). With B_j
the convolution with the aperture's kernel of radius c_j::

    alpha_j  = B_j(w_j + hidden_j a_j) / B_j(seen_j + hidden_j)
    color_j  = B_j(w_j I + hidden_j a_j fill_j) / B_j(seen_j + hidden_j)      (premultiplied)
    out      = over(color_J, ... over(color_1, color_0))

The normalisation makes a slanted surface, spread over many layers, opaque and free of seams. Pixels
on a silhouette hold light of two surfaces and enter every sum with both (`matting`).

The kernels are constants of the layers, so K and d_f act through the hat functions alone and all
derivatives are those of smooth sums. The layered view with conditional opacities follows Ikoma,
Nguyen, Metzler, Peng & Wetzstein, "Depth from defocus with learned optics", ICCP 2021; fixed
signed radii, continuing surfaces and invented hidden content are this module's own.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bokeh_jax.optics.aperture import Aperture, Disc
from bokeh_jax.optics.blur import blur_in_zones
from bokeh_jax.optics.hidden import fill_hidden
from bokeh_jax.optics.lens import Lens
from bokeh_jax.optics.matting import Surfaces, split_silhouettes
from bokeh_jax.optics.zones import zone_hats, zone_kernels

# What is nearer by less than this, plus this share of the layer's own radius, hides nothing: it is
# the same surface going on. Slopes of 0.2 px a pixel lose 15 dB without the share.
_SAME_SURFACE_PX = 1.0
_SAME_SURFACE_SHARE = 0.4
# Least covered share of a kernel that is divided by; below it rounding would be amplified.
_LEAST_COVERAGE = 1e-2


class _Scene(NamedTuple):
    """A photograph in planes, and the layer positions of its surfaces (0 is the farthest)."""

    image: Float[Array, "b 3 h w"]
    near: Float[Array, "b 1 h w"]
    far: Float[Array, "b 1 h w"]
    near_share: Float[Array, "b 1 h w"]
    near_light: Float[Array, "b 3 h w"]

    def share(self, near: Array, far: Array) -> Array:
        """Mean of a function of position over the pixel's surfaces."""
        return far + (near - far) * self.near_share

    def light(self, near: Array, far: Array) -> Array:
        """The pixel's light, each surface's weighted with a function of its position."""
        return far * self.image + (near - far) * self.near_light


def layer_radii_px(
    max_radius_px: float | int, num_layers: int | None = None
) -> Float[np.ndarray, " j"]:
    """Signed radii of the layers, far to near.

    Args:
        max_radius_px: the largest radius.
        num_layers: None for layers one pixel apart, 2 * ceil(max_radius_px) + 1 of them; otherwise
            that many, evenly over [-max_radius_px, max_radius_px].

    Raises:
        ValueError: a negative radius; an even number of layers, none of which would be in focus.
    """
    if not (max_radius_px >= 0 and math.isfinite(max_radius_px)):
        raise ValueError(f"max_radius_px must be finite and >= 0, got {max_radius_px}")
    if num_layers is None:
        half_size_px = math.ceil(max_radius_px)
        return np.arange(-half_size_px, half_size_px + 1, dtype=np.float64)
    if num_layers < 3 or num_layers % 2 == 0:
        raise ValueError(f"num_layers must be odd and at least 3, got {num_layers}")
    side = np.linspace(0.0, max_radius_px, num_layers // 2 + 1)
    return np.concatenate([-side[:0:-1], side])


def render_defocus(
    image: Float[Array, "*b h w 3"],
    disparity: Float[Array, "*b h w"],
    lens: Lens,
    *,
    aperture: Aperture = Disc(),
    max_radius_px: float | int,
    num_layers: int | None = None,
) -> Float[Array, "*b h w 3"]:
    """Photograph an all-in-focus image through a lens.

    Differentiable in the image, the disparity and the lens. Computed in float32 (in float64 for a
    float64 image). Memory does not depend on the number of layers; layers without any pixel are
    skipped. The image goes on beyond its frame with its edge pixels. Where every radius is zero,
    the result is the image bit for bit.

    Args:
        image: all in focus, linear light, [0, inf).
        disparity: of the visible surfaces, larger is nearer, in the lens's unit.
        lens: one for all, or one for each image (batch shape `*b`).
        aperture: shape of the blur; static.
        max_radius_px: static; signed radii beyond it are clamped to it.
        num_layers: see `layer_radii_px`; fewer layers are faster and coarser.

    Raises:
        ValueError: shapes that do not fit, or a bad `max_radius_px` or `num_layers`.
    """
    dtype = compute_dtype(image)
    _check_shapes(image, disparity, "disparity")
    return render_radius(
        image,
        lens.signed_radius_px(disparity.astype(dtype)),
        aperture=aperture,
        max_radius_px=max_radius_px,
        num_layers=num_layers,
    )


def render_radius(
    image: Float[Array, "*b h w 3"],
    signed_radius_px: Float[Array, "*b h w"],
    *,
    aperture: Aperture = Disc(),
    max_radius_px: float | int,
    num_layers: int | None = None,
) -> Float[Array, "*b h w 3"]:
    """Photograph an all-in-focus image whose signed blur radii are given, pixel by pixel.

    `render_defocus` is this with the radii of a lens; `focus` makes other radii. What is said of
    `render_defocus` holds here too.

    Args:
        image: all in focus, linear light, [0, inf).
        signed_radius_px: of the visible surfaces, positive nearer than the focus; a surface of
            greater radius is taken to hide one of smaller radius.
        aperture: shape of the blur; static.
        max_radius_px: static; signed radii beyond it are clamped to it.
        num_layers: see `layer_radii_px`.

    Raises:
        ValueError: shapes that do not fit, or a bad `max_radius_px` or `num_layers`.
    """
    _check_shapes(image, signed_radius_px, "signed_radius_px")
    frame = (image.shape[-3], image.shape[-2])
    hats, dtype = zone_hats(aperture, frame), compute_dtype(image)
    return render_window(
        image,
        signed_radius_px,
        (jnp.asarray(hats.rows, dtype), jnp.asarray(hats.columns, dtype)),
        frame=frame,
        aperture=aperture,
        max_radius_px=max_radius_px,
        num_layers=num_layers,
    )


def render_window(
    image: Float[Array, "*b h w 3"],
    signed_radius_px: Float[Array, "*b h w"],
    hats: tuple[Float[Array, "z h"], Float[Array, "z w"]],
    *,
    frame: tuple[int, int],
    aperture: Aperture,
    max_radius_px: float | int,
    num_layers: int | None,
) -> Float[Array, "*b h w 3"]:
    """`render_radius` of a part of a photograph: its own hats, the whole photograph's frame."""
    radii_px = layer_radii_px(max_radius_px, num_layers)
    dtype = compute_dtype(image)
    height, width = signed_radius_px.shape[-2:]
    signed = signed_radius_px.astype(dtype).reshape(-1, 1, height, width)
    signed = jnp.clip(signed, -max_radius_px, max_radius_px)
    planes = jnp.moveaxis(image.astype(dtype).reshape(-1, height, width, 3), -1, 1)
    surfaces = split_silhouettes(planes, signed, _SAME_SURFACE_PX)
    kernels = zone_kernels(aperture, radii_px, math.ceil(radii_px[-1]), frame)
    rendered = _render_layers_far_to_near(planes, surfaces, radii_px, kernels, hats)
    return jnp.moveaxis(rendered, 1, -1).reshape(image.shape)


def _check_shapes(image: Array, plane: Array, name: str) -> None:
    if image.shape[-1:] != (3,) or image.shape[:-1] != plane.shape:
        raise ValueError(
            f"image must have the shape of {name} and 3 colours, "
            f"got image {image.shape} and {name} {plane.shape}"
        )


def compute_dtype(array: Array) -> jnp.dtype:
    """float64 stays, every other type is computed in float32."""
    return jnp.dtype(jnp.float64 if array.dtype == jnp.float64 else jnp.float32)


def _render_layers_far_to_near(
    image: Float[Array, "b 3 h w"],
    surfaces: Surfaces,
    radii_px: Float[np.ndarray, " j"],
    kernels: Float[np.ndarray, "j z k k"],
    hats: tuple[Float[Array, "z h"], Float[Array, "z w"]],
) -> Float[Array, "b 3 h w"]:
    count = len(radii_px)
    middle = count // 2
    # With the aperture closed all layers coincide, and any spacing will do.
    spacing_px = float(radii_px[-1]) / max(1, middle) or 1.0
    same_surface_px = _SAME_SURFACE_PX + _SAME_SURFACE_SHARE * np.abs(radii_px)
    near = surfaces.near_px / spacing_px + middle
    far = surfaces.far_px / spacing_px + middle
    scene = _Scene(image, near, far, surfaces.near_share, surfaces.near_light)

    def blur(planes, kernels):
        return blur_in_zones(planes, kernels, *hats)

    def add_layer(over, layer):
        position, kernels, is_sharp, reach = layer
        weight = scene.share(_hat(scene.near, position), _hat(scene.far, position))

        def draw(over):
            light, coverage = over
            sums = _layer_sums(scene, position, reach)
            sums = jax.lax.cond(is_sharp, lambda p, _: p, blur, sums, kernels)
            covered = jnp.maximum(sums[:, 4:], _LEAST_COVERAGE)
            color = sums[:, :3] / covered
            alpha = sums[:, 3:4] / covered
            return light * (1 - alpha) + color, coverage * (1 - alpha) + alpha

        return jax.lax.cond(jnp.any(weight > 0), draw, lambda over: over, over), None

    layers = (
        jnp.arange(count).astype(image.dtype),
        jnp.asarray(kernels, image.dtype),
        jnp.asarray(radii_px == 0),
        jnp.asarray(np.maximum(1.0, same_surface_px / spacing_px), image.dtype),
    )
    nothing = (jnp.zeros_like(image), jnp.zeros_like(image[:, :1]))
    # Only the picture so far is kept for the backward pass; a layer is drawn again from it.
    add_layer = jax.checkpoint(add_layer, prevent_cse=False)
    (light, coverage), _ = jax.lax.scan(add_layer, nothing, layers)
    # Rounding in the transforms may leave less than black, which powers turn into NaN.
    return jnp.maximum(light, 0.0) / jnp.maximum(coverage, _LEAST_COVERAGE)


def _layer_sums(
    scene: _Scene, position: Float[Array, ""], reach: Float[Array, ""]
) -> Float[Array, "b 5 h w"]:
    """What a layer's kernel averages: premultiplied colour, opacity and the normaliser."""
    hats = _hat(scene.near, position), _hat(scene.far, position)
    steps = _step(scene.near, position), _step(scene.far, position)
    beyond = position + reach
    weight, seen = scene.share(*hats), scene.share(*steps)
    hidden = 1 - scene.share(_step(scene.near, beyond), _step(scene.far, beyond))
    light = scene.light(*hats)
    filled = fill_hidden(
        jnp.concatenate([light, weight], axis=1),
        jnp.concatenate([jnp.broadcast_to(weight, light.shape), seen], axis=1),
    )
    invented = hidden * filled[:, 3:]
    return jnp.concatenate(
        [light + invented * filled[:, :3], weight + invented, seen + hidden], axis=1
    )


def _hat(positions: Array, layer: Array) -> Array:
    """Share of a surface that belongs to a layer."""
    return jnp.maximum(0.0, 1 - jnp.abs(positions - layer))


def _step(positions: Array, layer: Array) -> Array:
    """Share of a surface that belongs to a layer or to farther ones: the hats' running sum."""
    return jnp.clip(layer + 1 - positions, 0.0, 1.0)
