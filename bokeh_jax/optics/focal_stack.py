"""Focal stacks: taking one, which picture is sharp where, and the blend of the sharp parts.

Where disparity is known, with s_m(x) the signed blur radius of pixel x in the picture focused at
lens m::

    w_m(x) = softmax over m of -|s_m(x)| / softness,     stacked = sum over m of w_m I_m

The weights are those of a stacking constraint: a set of refocused pictures must blend to the
all-in-focus picture (DiffCamera, arXiv 2509.26599).

Where nothing but the stack is known, sharpness is read from the pictures: the modified Laplacian of
the brightness L, summed over a window (Nayar & Nakagawa, "Shape from focus", PAMI 1994)::

    S_m = window * (|2 L - L(x - 1) - L(x + 1)| + |2 L - L(y - 1) - L(y + 1)|)
    w_m = (S_m + e)^p / sum over n of (S_n + e)^p,             fused = sum over m of w_m I_m

L is the square root of the light, so that shadows count as they are seen.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bokeh_jax.optics.aperture import Aperture, Disc
from bokeh_jax.optics.defocus import compute_dtype, render_defocus
from bokeh_jax.optics.lens import Lens

# Sharpness this small, relative to display white, is noise: such pixels are averaged.
_LEAST_SHARPNESS = 1e-3
# Least light whose square root is taken, for finite slopes.
_LEAST_LIGHT = 1e-4


def focal_stack(
    image: Float[Array, "*b h w 3"],
    disparity: Float[Array, "*b h w"],
    lenses: Lens,
    *,
    aperture: Aperture = Disc(),
    max_radius_px: float | int,
) -> Float[Array, "*b m h w 3"]:
    """Photograph an all-in-focus image through each of a stack's lenses, one after the other.

    Args:
        image: all in focus, linear light.
        disparity: of the visible surfaces.
        lenses: the stack's lenses, batch shape `*b m`.
        aperture: shape of the blur; static, or with traced fields.
        max_radius_px: static, for all pictures.

    Raises:
        ValueError: shapes that do not fit, and what `render_defocus` refuses.
    """
    _check_stack(disparity.shape[:-2], lenses)

    def photograph(lens):
        return render_defocus(
            image,
            disparity,
            lens,
            aperture=aperture,
            max_radius_px=max_radius_px,
        )

    by_picture = jax.tree.map(lambda field: jnp.moveaxis(field, -1, 0), lenses)
    return jnp.moveaxis(jax.lax.map(photograph, by_picture), 0, -4)


def all_in_focus(
    images: Float[Array, "*b m h w 3"], *, window_px: int = 4, power: float | int = 8.0
) -> Float[Array, "*b h w 3"]:
    """Blend the sharp parts of a focal stack whose disparity is not known. Differentiable.

    Args:
        images: pictures of one scene at different focus, linear light.
        window_px: reach of the window in which sharpness is summed, on either side, at least 1.
        power: how strongly the sharpest picture is preferred, above 0.

    Raises:
        ValueError: a window or power outside its range.
    """
    if window_px < 1:
        raise ValueError(f"window_px must be at least 1, got {window_px}")
    if not power > 0:
        raise ValueError(f"power must be positive, got {power}")
    images = images.astype(compute_dtype(images))
    sharpness = _window_mean(_modified_laplacian(images), window_px)
    weights = jax.nn.softmax(power * jnp.log(sharpness + _LEAST_SHARPNESS), axis=-3)
    return stack(images, weights)


def _modified_laplacian(images: Float[Array, "*b h w 3"]) -> Float[Array, "*b h w"]:
    """Absolute second differences of the brightness along x and along y, added up."""
    brightness = jnp.sqrt(jnp.maximum(jnp.mean(images, axis=-1), _LEAST_LIGHT))
    total = jnp.zeros_like(brightness)
    for axis in (-2, -1):
        before, after = _shifted(brightness, axis, -1), _shifted(brightness, axis, 1)
        total += jnp.abs(2 * brightness - before - after)
    return total


def _window_mean(planes: Float[Array, "*b h w"], reach_px: int) -> Float[Array, "*b h w"]:
    """Binomially weighted mean along both axes, edges replicated."""
    for axis in (-2, -1):
        for _ in range(reach_px):
            planes = (_shifted(planes, axis, -1) + 2 * planes + _shifted(planes, axis, 1)) / 4
    return planes


def _shifted(planes: Float[Array, "*b h w"], axis: int, step: int) -> Float[Array, "*b h w"]:
    """Each pixel's neighbour one step along an axis; the edges are their own neighbours."""
    size = planes.shape[axis]
    edge = slice(size - 1, size) if step > 0 else slice(0, 1)
    kept = slice(1, size) if step > 0 else slice(0, size - 1)
    parts = [jax.lax.slice_in_dim(planes, s.start, s.stop, axis=axis) for s in (kept, edge)]
    return jnp.concatenate(parts if step > 0 else parts[::-1], axis=axis)


def in_focus_weights(
    disparity: Float[Array, "*b h w"], lenses: Lens, *, softness_px: float | int = 1.0
) -> Float[Array, "*b m h w"]:
    """Weights that sum to one over the stack and prefer the sharpest picture of each pixel.

    Args:
        disparity: of the visible surfaces.
        lenses: the stack's lenses, batch shape `*b m`.
        softness_px: two pictures whose radii differ by this much have weights of ratio e.

    Raises:
        ValueError: shapes that do not fit, or a softness that is not positive.
    """
    if not softness_px > 0:
        raise ValueError(f"softness_px must be positive, got {softness_px}")
    _check_stack(disparity.shape[:-2], lenses)
    stack_shape = (*lenses.shape, *disparity.shape[-2:])
    everywhere = jnp.broadcast_to(disparity[..., None, :, :], stack_shape)
    radius_px = jnp.abs(lenses.signed_radius_px(everywhere))
    return jax.nn.softmax(-radius_px / softness_px, axis=-3)


def stack(
    images: Float[Array, "*b m h w c"], weights: Float[Array, "*b m h w"]
) -> Float[Array, "*b h w c"]:
    """Blend the pictures of a stack with weights that sum to one over m."""
    return jnp.sum(images * weights[..., None], axis=-4)


def _check_stack(batch: tuple[int, ...], lenses: Lens) -> None:
    if len(lenses.shape) != len(batch) + 1 or lenses.shape[:-1] != batch:
        raise ValueError(
            f"lenses must have the disparity's batch shape {batch} and one more dimension, "
            f"got {lenses.shape}"
        )
