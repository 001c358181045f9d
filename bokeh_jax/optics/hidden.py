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

import jax
import jax.numpy as jnp
import numpy as np
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
    even = _pad(planes, (0, height % 2, 0), (0, width % 2, 0))
    height, width = even.shape[-2:]
    squares = even.reshape(*planes.shape[:-2], height // 2, 2, width // 2, 2)
    return jnp.mean(squares, axis=(-3, -1))


def _double(planes: Float[Array, "*n h w"]) -> Float[Array, "*n hd wd"]:
    """Bilinear interpolation to twice the size, pixel centres aligned, edges replicated."""
    height, width = (2 * size for size in planes.shape[-2:])
    apart = _pad(planes, (2, 2, 1), (2, 2, 1))
    rows = 0.25 * (apart[..., 0:height, :] + apart[..., 3 : height + 3, :])
    rows += 0.75 * (apart[..., 1 : height + 1, :] + apart[..., 2 : height + 2, :])
    columns = 0.25 * (rows[..., 0:width] + rows[..., 3 : width + 3])
    columns += 0.75 * (rows[..., 1 : width + 1] + rows[..., 2 : width + 2])
    # The zeros beyond an edge took a quarter of the weight.
    weights = np.outer(_by_edge(height, 1.0, 0.75, 0.75), _by_edge(width, 1.0, 0.75, 0.75))
    return columns * _constant(1 / weights, planes)


def _neighbour_mean(planes: Float[Array, "*n h w"]) -> Float[Array, "*n h w"]:
    """Mean of the neighbours that exist, those at the sides four times those at the corners."""
    padded = _pad(planes, (1, 1, 0), (1, 1, 0))
    middle = padded[..., 1:-1, :]
    vertical = padded[..., :-2, :] + padded[..., 2:, :]
    sideways = vertical + 4 * middle
    total = 4 * vertical[..., 1:-1] + sideways[..., :-2] + sideways[..., 2:]
    # The weights are those of [1 4 1] along both axes, without the middle one.
    height, width = planes.shape[-2:]
    weights = np.outer(_by_edge(height, 6.0, 5.0, 4.0), _by_edge(width, 6.0, 5.0, 4.0)) - 16
    return total * _constant(1 / weights, planes)


def _by_edge(size: int, inside: float, at_edge: float, alone: float) -> Float[np.ndarray, " n"]:
    """One number for each pixel of a line: inside, at its ends, or of a line of one pixel."""
    line = np.full(size, inside)
    line[[0, -1]] = at_edge if size > 1 else alone
    return line


def _constant(values: Float[np.ndarray, "h w"], like: Float[Array, "*n hl wl"]) -> Array:
    """A plane of constants in the type and rank of `like`."""
    return jnp.asarray(values.reshape((1,) * (like.ndim - 2) + values.shape), like.dtype)


def _pad(
    planes: Float[Array, "*n h w"], rows: tuple[int, int, int], columns: tuple[int, int, int]
) -> Float[Array, "*n hp wp"]:
    """Zeros before, after and between the pixels."""
    untouched = [(0, 0, 0)] * (planes.ndim - 2)
    return jax.lax.pad(planes, jnp.zeros((), planes.dtype), [*untouched, rows, columns])
