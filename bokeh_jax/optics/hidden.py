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

from bokeh_jax.optics.linear import with_transpose
from bokeh_jax.optics.resample import double, halve

# Confidences below this are nothing but rounding.
_LEAST_CONFIDENCE = 1e-12
_SWEEPS = 2
# Shorter side at which the pyramid ends.
_COARSEST_PX = 4


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
    if min(height, width) <= _COARSEST_PX:
        return _mean_where_unknown(weighted, confidence)
    coarse = fill_hidden(*pull(_even(weighted), _even(confidence)))
    trust, kept = _kept(weighted, confidence)
    filled = kept + (1 - trust) * double(coarse)[..., :height, :width]
    for _ in range(_SWEEPS):
        filled = kept + (1 - trust) * _neighbour_mean(filled)
    return filled


def pull(
    weighted: Float[Array, "*n h w"], confidence: Float[Array, "*n h w"]
) -> tuple[Float[Array, "*n h2 w2"], Float[Array, "*n h2 w2"]]:
    """One step to half the size: weighted values and confidences of 2 x 2 pixels."""
    return _trusting(halve(weighted), halve(confidence))


def fill_coarse(
    weighted: Float[Array, "*n h w"], confidence: Float[Array, "*n h w"]
) -> Float[Array, "*n h w"]:
    """`fill_hidden` of means over blocks of pixels, as its second step sees them."""
    return fill_hidden(*_trusting(weighted, confidence))


def _mean_where_unknown(weighted: Array, confidence: Array) -> Array:
    """On the coarsest level what is unknown is the mean of what is known."""
    known = jnp.sum(confidence, axis=(-2, -1), keepdims=True)
    mean = jnp.sum(weighted, axis=(-2, -1), keepdims=True) / jnp.maximum(known, _LEAST_CONFIDENCE)
    trust, kept = _kept(weighted, confidence)
    return kept + (1 - trust) * mean


def _kept(weighted: Array, confidence: Array) -> tuple[Array, Array]:
    """How far a pixel keeps its own value, and that share of the value."""
    trust = jnp.minimum(1.0, confidence)
    return trust, trust * weighted / jnp.maximum(confidence, _LEAST_CONFIDENCE)


def _trusting(weighted: Array, confidence: Array) -> tuple[Array, Array]:
    """A pixel that is half known is trusted fully."""
    trusted = jnp.minimum(1.0, 2 * confidence)
    return weighted * (trusted / jnp.maximum(confidence, _LEAST_CONFIDENCE)), trusted


def _even(planes: Float[Array, "*n h w"]) -> Float[Array, "*n he we"]:
    """Beyond an odd edge there is nothing."""
    height, width = planes.shape[-2:]
    return _pad(planes, (0, height % 2, 0), (0, width % 2, 0))


def _neighbour_sum(planes: Float[Array, "*n h w"]) -> Float[Array, "*n h w"]:
    """Sum over the neighbours that exist, those at the sides four times; its own transpose."""
    padded = _pad(planes, (1, 1, 0), (1, 1, 0))
    middle = padded[..., 1:-1, :]
    vertical = padded[..., :-2, :] + padded[..., 2:, :]
    sideways = vertical + 4 * middle
    return 4 * vertical[..., 1:-1] + sideways[..., :-2] + sideways[..., 2:]


_symmetric_sum = with_transpose(_neighbour_sum, _neighbour_sum)


def _neighbour_mean(planes: Float[Array, "*n h w"]) -> Float[Array, "*n h w"]:
    """Mean of the neighbours that exist, those at the sides four times those at the corners."""
    # The weights are those of [1 4 1] along both axes, without the middle one.
    height, width = planes.shape[-2:]
    weights = np.outer(_by_edge(height, 6.0, 5.0, 4.0), _by_edge(width, 6.0, 5.0, 4.0)) - 16
    return _symmetric_sum(planes) * _constant(1 / weights, planes)


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
