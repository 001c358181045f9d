"""Recovery of clipped highlights, so that lights become discs instead of grey smudges.

A sensor clips: lamps, glints and the sun are stored as 1 where the scene had ten or a hundred.
Blurred, a stored 1 over a disc of a hundred pixels is lost. Before blurring, what lies above a
threshold is therefore made brighter. With m the largest of a pixel's colours, so that hue is kept::

    u = clip((m - threshold) / (1 - threshold), 0, 1)
    expanded = image * (1 + (gain - 1) u^2 (3 - 2 u))

Below the threshold nothing changes, a clipped pixel is multiplied by the gain, and the step between
them is smooth, so slopes are continuous and order is kept. It is a guess: what was clipped is
not in the picture. Of the kind of BokehMe's highlight weighting (Peng et al., CVPR 2022), in linear
light.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from bokeh_jax.optics.defocus import compute_dtype


def expand_highlights(
    image: Float[Array, "*b h w 3"],
    gain: float | int | Float[Array, ""],
    *,
    threshold: float | int = 0.8,
) -> Float[Array, "*b h w 3"]:
    """Brighten what was probably clipped. Differentiable in the image and the gain.

    Args:
        image: linear light, 1 where the sensor clipped.
        gain: factor for clipped pixels, at least 1; 1 changes nothing.
        threshold: linear light up to which nothing changes, in [0, 1); static.

    Raises:
        ValueError: a gain (given as a number) or threshold outside its range.
    """
    if isinstance(gain, float | int) and not (gain >= 1 and math.isfinite(gain)):
        raise ValueError(f"gain must be finite and >= 1, got {gain}")
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold must lie in [0, 1), got {threshold}")
    image = image.astype(compute_dtype(image))
    brightest = jnp.max(image, axis=-1, keepdims=True)
    above = jnp.clip((brightest - threshold) / (1 - threshold), 0, 1)
    boost = jnp.asarray(gain, image.dtype) - 1
    return image * (1 + boost * above**2 * (3 - 2 * above))
