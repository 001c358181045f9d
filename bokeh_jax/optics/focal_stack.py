"""Focal stacks: which picture of a stack is sharp where, and the blend of the sharp parts.

With s_m(x) the signed blur radius of pixel x in the picture focused at lens m::

    w_m(x) = softmax over m of -|s_m(x)| / softness,     stacked = sum over m of w_m I_m

The weights are those of a stacking constraint: a set of refocused pictures must blend to the
all-in-focus picture (DiffCamera, arXiv 2509.26599).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bokeh_jax.optics.lens import Lens


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
    batch = disparity.shape[:-2]
    if len(lenses.shape) != len(batch) + 1 or lenses.shape[:-1] != batch:
        raise ValueError(
            f"lenses must have the disparity's batch shape {batch} and one more dimension, "
            f"got {lenses.shape}"
        )
    stack_shape = (*lenses.shape, *disparity.shape[-2:])
    everywhere = jnp.broadcast_to(disparity[..., None, :, :], stack_shape)
    radius_px = jnp.abs(lenses.signed_radius_px(everywhere))
    return jax.nn.softmax(-radius_px / softness_px, axis=-3)


def stack(
    images: Float[Array, "*b m h w c"], weights: Float[Array, "*b m h w"]
) -> Float[Array, "*b h w c"]:
    """Blend the pictures of a stack with weights that sum to one over m."""
    return jnp.sum(images * weights[..., None], axis=-4)
