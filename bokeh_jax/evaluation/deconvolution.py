"""Sharpening a defocused photograph whose blur radii are known: the classical baseline.

Were the whole photograph blurred by one disc of radius r, the linear estimate of the sharp one with
the least expected square error would be (Wiener, "Extrapolation, Interpolation, and Smoothing of
Stationary Time Series", 1949), with H_r the disc's spectrum and ν the noise's power over the
signal's, taken as one number for all frequencies:

    X_r = F⁻¹[ conj(H_r) / (|H_r|² + ν) · (1 + ν) · F[I] ]

(1 + ν) keeps the mean. The radius differs from pixel to pixel; so X_r is made for radii 0 = r_0 <
r_1 < … < r_n, and every pixel takes the two of its own radius, weighted linearly. That is wrong
where neighbours have other radii than the pixel itself: at the outlines of things.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bokeh_jax.optics import Disc, aperture_kernel
from bokeh_jax.optics.blur import transfer

# Chosen on scenes of training (docs/results.md), not on those that are scored.
NOISE_TO_SIGNAL = 0.1
_MOST_LEVELS = 17


def deconvolve(
    image: Float[Array, "b h w 3"],
    radius_px: Float[Array, "b h w"],
    *,
    max_radius_px: float,
    noise_to_signal: float = NOISE_TO_SIGNAL,
) -> Float[Array, "b h w 3"]:
    """The sharp photograph's estimate, in linear light, not below 0.

    Args:
        image: linear light.
        radius_px: radius of the blur at every pixel; its sign does not matter.
        max_radius_px: static bound of the radius; larger ones are taken for it.
        noise_to_signal: ν.
    """
    half_px = math.ceil(max_radius_px)
    count = min(half_px + 1, _MOST_LEVELS)
    radii_px = np.linspace(0.0, half_px, count)
    kernels = np.stack([aperture_kernel(Disc(), float(radius), half_px) for radius in radii_px])
    # Twice as large and mirrored: repeated, it has no seam that would ring, and a symmetric kernel
    # blurs it as it would blur the photograph mirrored at its edges.
    height, width = image.shape[1:3]
    size = (2 * height, 2 * width)
    padded = jnp.pad(image, [(0, 0), (0, height), (0, width), (0, 0)], mode="symmetric")
    spectra = jnp.fft.rfft2(padded, axes=(1, 2))
    position = jnp.clip(jnp.abs(radius_px), 0.0, half_px) * ((count - 1) / half_px)
    total = jnp.zeros_like(image)
    levels = transfer(jnp.asarray(kernels, image.dtype), size, symmetric=True)
    for level, (response,) in enumerate(levels):
        half = response[None, :, : size[1] // 2 + 1, None]
        gain = half * (1.0 + noise_to_signal) / (half**2 + noise_to_signal)
        gain = jax.lax.complex(gain, jnp.zeros_like(gain))
        sharp = jnp.fft.irfft2(spectra * gain, s=size, axes=(1, 2))
        weight = jnp.maximum(0.0, 1.0 - jnp.abs(position - level))
        total = total + weight[..., None] * sharp[:, :height, :width]
    return jnp.maximum(total, 0.0)
