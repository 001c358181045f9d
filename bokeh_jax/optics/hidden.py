"""Inventing what a photograph hides: smooth interpolation of planes from where they are known.

Push-pull (Gortler, Grzeszczuk, Szeliski & Cohen, "The Lumigraph", SIGGRAPH 1996):
pull averages the known values into ever coarser pixels, weighted with their confidence; push goes
back down and fills each level's doubtful pixels from the coarser one::

    pull:  c' = min(1, 2 mean(c)),    v' = mean(c v) / mean(c)
    push:  v <- k v + (1 - k) up(v'),    k = min(1, c)

A coarse pixel is trusted fully as soon as half of it is known. After each push a few sweeps of

    v <- k v + (1 - k) (weighted mean of the eight neighbours)

relax the filled pixels towards the membrane, the surface of least gradient energy. Where spectral
power falls with the square of the frequency, as it does in photographs, the membrane is the linear
estimate of least squared error, because its energy is then minus the log-likelihood.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

# Confidences below this are nothing but rounding.
_LEAST_CONFIDENCE = 1e-12
_SWEEPS = 2


def fill_hidden(
    weighted: Float[Array, "*n h w"], confidence: Float[Array, "*n h w"]
) -> Float[Array, "*n h w"]:
    """Interpolate planes into where they are unknown; keep them where confidence is at least 1.

    Linear in `weighted`, and a plane that is constant where it is known is that constant
    everywhere. A plane that is known nowhere becomes zero.

    Args:
        weighted: values times their confidence.
        confidence: zero where nothing is known.
    """
    height, width = weighted.shape[-2:]
    known = weighted / jnp.maximum(confidence, _LEAST_CONFIDENCE)
    if height == 1 and width == 1:
        return known
    coarse_confidence = _halve(confidence)
    trusted = jnp.minimum(1.0, 2 * coarse_confidence)
    gain = trusted / jnp.maximum(coarse_confidence, _LEAST_CONFIDENCE)
    coarse = fill_hidden(_halve(weighted) * gain, trusted)
    trust = jnp.minimum(1.0, confidence)
    kept = trust * known
    filled = kept + (1 - trust) * _double(coarse)[..., :height, :width]
    for _ in range(_SWEEPS):
        filled = kept + (1 - trust) * _neighbour_mean(filled)
    return filled


def _halve(planes: Float[Array, "*n h w"]) -> Float[Array, "*n hh wh"]:
    """Means of 2 x 2 pixels; beyond an odd edge there is nothing."""
    height, width = planes.shape[-2:]
    margins = [(0, 0)] * (planes.ndim - 2) + [(0, height % 2), (0, width % 2)]
    even = jnp.pad(planes, margins)
    rows = even[..., 0::2, :] + even[..., 1::2, :]
    return (rows[..., 0::2] + rows[..., 1::2]) * 0.25


def _double(planes: Float[Array, "*n h w"]) -> Float[Array, "*n hd wd"]:
    """Bilinear interpolation to twice the size, pixel centres aligned, edges replicated."""
    for axis in (planes.ndim - 1, planes.ndim - 2):
        planes = jnp.moveaxis(planes, axis, -1)
        first, last = planes[..., :1], planes[..., -1:]
        before = jnp.concatenate([first, planes[..., :-1]], axis=-1)
        after = jnp.concatenate([planes[..., 1:], last], axis=-1)
        pairs = jnp.stack([0.75 * planes + 0.25 * before, 0.75 * planes + 0.25 * after], axis=-1)
        planes = jnp.moveaxis(pairs.reshape(*planes.shape[:-1], -1), -1, axis)
    return planes


def _neighbour_mean(planes: Float[Array, "*n h w"]) -> Float[Array, "*n h w"]:
    """Mean of the eight neighbours, 1/5 for each side and 1/20 for each corner."""
    margins = [(0, 0)] * (planes.ndim - 2) + [(1, 1), (1, 1)]
    padded = jnp.pad(planes, margins, mode="edge")
    rows = padded[..., :-2, :] + padded[..., 2:, :]
    middle = padded[..., 1:-1, :]
    corners = rows[..., :-2] + rows[..., 2:]
    sides = rows[..., 1:-1] + middle[..., :-2] + middle[..., 2:]
    return 0.2 * sides + 0.05 * corners
