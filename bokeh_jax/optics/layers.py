"""Lens blur of a layered scene whose hidden content is known.

A scene is a stack of pictures with opacity, each on a plane of linear disparity
d(x, y) = a x + b y + c (a plane in space is linear in disparity). A layer is blurred with its own
signed radius s = K (d - d_f), which varies over a slanted layer; then the layers are composited far
to near with "over" (Porter & Duff, SIGGRAPH 1984). With w_j the hat functions around fixed radii
c_j (see `layer_plan`) and B_j the convolution with the aperture's kernel of radius c_j::

    (alpha c, alpha)_blurred = sum_j B_j(w_j (alpha c, alpha)) / sum_j B_j(w_j)

The denominator is what a layer that is opaque everywhere would collect, so slanted layers stay
opaque. The sums over j are taken in the frequency domain: one inverse transform serves them all. An
aperture with point symmetry blurs alike on both sides of the focus plane, so hats around |s| do.

"over" treats the visibilities of two layers as independent through the lens. It is exact where all
but one layer are in focus; behind two blurred layers it is an approximation of about 40 dB.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bokeh_jax.optics.aperture import Aperture, Disc, is_point_symmetric
from bokeh_jax.optics.blur import from_spectrum, padded_fft_shape, spectrum, sum_over_zones
from bokeh_jax.optics.defocus import compute_dtype
from bokeh_jax.optics.layer_kernels import kernel_half_size_px
from bokeh_jax.optics.layer_plan import LayerPlan, plan_layers
from bokeh_jax.optics.lens import Lens
from bokeh_jax.optics.slab_shares import node_shares, weight
from bokeh_jax.optics.slabs import Slabs, slab_arrays
from bokeh_jax.optics.small_kernels import crop
from bokeh_jax.optics.zones import zone_hats

# Least share of a kernel that is divided by; a layer's radius would have to vary by a pixel
# within a pixel to come near it.
_LEAST_COVERAGE = 1e-2


def render_layers(
    layers_rgba: Float[Array, "*b l hm wm 4"],
    layer_disparity: Float[Array, "*b l 3"],
    lens: Lens,
    *,
    aperture: Aperture = Disc(),
    max_radius_px: float | int,
    margin_px: int = 0,
) -> Float[Array, "*b h w 3"]:
    """Photograph a layered scene through a lens; h = hm - 2 margin_px, w likewise.

    Differentiable in the layers, their planes and the lens. Computed in float32 (in float64 for
    float64 layers). Layers go on beyond what is stored with their edge pixels. Light that no layer
    stops is black. Where every radius is zero, no transform's rounding enters: the result is
    `composite_layers`.

    Args:
        layers_rgba: linear light and straight opacity, nearest first; absent layers have opacity 0.
        layer_disparity: planes (a, b, c), disparity = a x + b y + c with x and y in pixels of the
            visible image, whose pixel (0, 0) is the stored pixel (margin_px, margin_px).
        lens: one for all, or one for each scene (batch shape `*b`).
        aperture: shape of the blur; static, or with traced fields.
        max_radius_px: static; signed radii beyond it are clamped to it.
        margin_px: stored pixels beyond the visible image on each side.

    Raises:
        ValueError: shapes that do not fit, or a bad `max_radius_px` or `margin_px`.
    """
    _check_layers(layers_rgba, layer_disparity, margin_px)
    plan, dtype = plan_layers(max_radius_px), compute_dtype(layers_rgba)
    half_size_px = kernel_half_size_px(plan.near, 0)
    stored = _with_margin(layers_rgba.astype(dtype), margin_px, half_size_px)
    batch, (count, height, width) = stored.shape[:-4], stored.shape[-4:-1]
    frame = (height - 2 * half_size_px, width - 2 * half_size_px)
    disparity = plane_disparity(layer_disparity.astype(dtype), frame, half_size_px)
    tall = disparity.reshape(*batch, count * height, width)
    signed = jnp.clip(lens.signed_radius_px(tall), -max_radius_px, max_radius_px)
    planes = jnp.moveaxis(_premultiplied(stored), -1, -3).reshape(-1, 4, height, width)
    signed = signed.reshape(-1, 1, height, width)
    blurred = _blur_by_radius(planes, signed, plan, half_size_px, aperture)
    return _over(jnp.moveaxis(blurred.reshape(*batch, count, 4, *frame), -3, -1))


def composite_layers(
    layers_rgba: Float[Array, "*b l hm wm 4"], *, margin_px: int = 0
) -> Float[Array, "*b h w 3"]:
    """The all-in-focus picture of a layered scene, in linear light; see `render_layers`."""
    return _over(_premultiplied(_with_margin(layers_rgba, margin_px, 0)))


def visible_disparity(
    layers_alpha: Float[Array, "*b l hm wm"],
    layer_disparity: Float[Array, "*b l 3"],
    *,
    margin_px: int = 0,
) -> Float[Array, "*b h w"]:
    """Disparity of the nearest layer with an opacity of at least one half.

    Where no layer is that opaque, the disparity of the most opaque one. Not differentiable in the
    opacity.
    """
    alpha = _with_margin(layers_alpha[..., None], margin_px, 0)[..., 0]
    solid = alpha >= 0.5
    nearest = jnp.where(
        jnp.any(solid, axis=-3), jnp.argmax(solid, axis=-3), jnp.argmax(alpha, axis=-3)
    )
    disparity = plane_disparity(layer_disparity, (alpha.shape[-2], alpha.shape[-1]), 0)
    return jnp.take_along_axis(disparity, nearest[..., None, :, :], axis=-3)[..., 0, :, :]


def plane_disparity(
    layer_disparity: Float[Array, "*b 3"], frame: tuple[int, int], margin_px: int
) -> Float[Array, "*b hm wm"]:
    """Disparity maps of planes (a, b, c) over a frame of (h, w) pixels and a margin around it."""
    dtype = layer_disparity.dtype
    y = jnp.arange(-margin_px, frame[0] + margin_px).astype(dtype)
    x = jnp.arange(-margin_px, frame[1] + margin_px).astype(dtype)
    a, b, c = (layer_disparity[..., i, None, None] for i in range(3))
    lead = (1,) * (layer_disparity.ndim - 1)
    return a * x.reshape(*lead, 1, -1) + b * y.reshape(*lead, -1, 1) + c


def _blur_by_radius(
    planes: Float[Array, "n 4 hp wp"],
    signed_px: Float[Array, "n 1 hp wp"],
    plan: LayerPlan,
    half_size_px: int,
    aperture: Aperture,
) -> Float[Array, "n 4 h w"]:
    """Blur padded premultiplied planes, each pixel with the kernel of its own radius."""
    height, width = planes.shape[-2:]
    frame = (height - 2 * half_size_px, width - 2 * half_size_px)
    opaque = jnp.concatenate([planes, jnp.ones_like(planes[:, :1])], axis=1)
    in_focus = jnp.maximum(0.0, 1 - jnp.abs(signed_px) / plan.in_focus.after_px)
    sharp = crop(opaque * in_focus, half_size_px, frame)
    if not plan.near:
        return sharp[:, :4]
    sides = plan.near
    if is_point_symmetric(aperture):
        signed_px = jnp.abs(signed_px)
    else:
        sides = (*plan.far, *plan.near)
    slabs = slab_arrays(sides, 0, half_size_px, aperture, frame, planes.dtype)
    rows, columns = (jnp.asarray(lines, planes.dtype) for lines in zone_hats(aperture, frame))
    sums = sum_over_zones(
        lambda kernels: _blur_slabs(opaque, signed_px, slabs._replace(kernels=kernels), frame),
        jnp.moveaxis(jnp.asarray(slabs.kernels), 2, 0),
        rows,
        columns,
        jnp.zeros_like(sharp),
    )
    sums = sharp + sums
    return sums[:, :4] / jnp.maximum(sums[:, 4:], _LEAST_COVERAGE)


def _blur_slabs(
    opaque: Float[Array, "n 5 hp wp"],
    signed_px: Float[Array, "n 1 hp wp"],
    slabs: Slabs,
    frame: tuple[int, int],
) -> Float[Array, "n 5 h w"]:
    """Sum over slabs and their nodes, for one zone; slabs without any pixel are skipped."""
    half_size_px = slabs.kernels.shape[-1] // 2
    fft_shape = padded_fft_shape(frame, half_size_px)

    def add_slab(total, slab: Slabs):
        own = weight(slab.reach, signed_px)

        def add(total):
            of_nodes = node_shares(slab.reach, signed_px)
            for of_node, kernel in zip(of_nodes, slab.kernels, strict=True):
                planes = spectrum(opaque * (own * of_node), fft_shape)
                total += planes * spectrum(kernel, fft_shape)[None, None]
            return total

        return jax.lax.cond(jnp.any(own > 0), add, lambda total: total, total), None

    nothing = jnp.zeros_like(jnp.fft.rfft2(opaque[..., :1, :1], s=fft_shape))
    add_slab = jax.checkpoint(add_slab, prevent_cse=False)
    total, _ = jax.lax.scan(add_slab, nothing, jax.tree.map(jnp.asarray, slabs))
    return from_spectrum(total, fft_shape, half_size_px, frame)


def _over(premultiplied: Float[Array, "*b l h w 4"]) -> Float[Array, "*b h w 3"]:
    """Composite premultiplied layers, nearest first, over black."""
    layers = jnp.moveaxis(premultiplied, -4, 0)[::-1]
    light = jnp.zeros_like(layers[0, ..., :3])
    for layer in layers:
        light = layer[..., :3] + (1 - layer[..., 3:]) * light
    # Rounding in the transforms may leave less than black, which powers turn into NaN.
    return jnp.maximum(light, 0.0)


def _premultiplied(layers_rgba: Float[Array, "*b h w 4"]) -> Float[Array, "*b h w 4"]:
    color, alpha = layers_rgba[..., :3], layers_rgba[..., 3:]
    return jnp.concatenate([color * alpha, alpha], axis=-1)


def _with_margin(
    planes: Float[Array, "*b hm wm c"], margin_px: int, wanted_px: int
) -> Float[Array, "*b hp wp c"]:
    """Cut or continue stored pixels so that `wanted_px` lie beyond the visible image."""
    surplus_px = margin_px - wanted_px
    if surplus_px >= 0:
        height, width = planes.shape[-3:-1]
        rows, columns = (slice(surplus_px, size - surplus_px) for size in (height, width))
        return planes[..., rows, columns, :]
    missing = [(0, 0)] * (planes.ndim - 3) + [(-surplus_px, -surplus_px)] * 2 + [(0, 0)]
    return jnp.pad(planes, missing, mode="edge")


def _check_layers(layers_rgba: Array, layer_disparity: Array, margin_px: int) -> None:
    if layers_rgba.shape[-1:] != (4,) or layers_rgba.ndim < 4:
        raise ValueError(f"layers_rgba must be [..., l, h, w, 4], got {layers_rgba.shape}")
    if layer_disparity.shape != (*layers_rgba.shape[:-3], 3):
        raise ValueError(
            f"layer_disparity must be {(*layers_rgba.shape[:-3], 3)} for layers_rgba of shape "
            f"{layers_rgba.shape}, got {layer_disparity.shape}"
        )
    smallest = min(layers_rgba.shape[-3:-1])
    if not 0 <= 2 * margin_px < smallest:
        raise ValueError(
            f"margin_px must be >= 0 and leave pixels of {smallest} stored ones, got {margin_px}"
        )
