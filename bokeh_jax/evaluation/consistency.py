"""What a refocused photograph is to keep: blends, unchanged pixels, highlights.

    stacking     RMS of Σ_m w_m answer_m − blend over pixels and channels: answers to M planes of
                 focus, blended with the in-focus weights w_m, against the answer to the blend (or
                 the blend of the truths). The stacking constraint of DiffCamera (arXiv 2509.26599)
                 as `objectives.stacking` has it in pixels; 0 is perfect
    unchanged    mean |result − reference| over pixels whose blur is not to change
                 (`regions.unchanged_pixels`); the truth's own value is the least, 0 where nothing
                 in reach changes. Ours
    highlights   log2(P(result) / P(truth)) in stops, with P the 99.9th percentile of linear
                 light of the brightest channel; 0 is perfect, below 0 lights are dulled
    clipped      share of pixels with a channel at white (254.5 / 255 or more), result minus truth;
                 0 is perfect. Percentiles against clipped shares is the usual way of judging
                 highlights; this pair is ours

Percentiles of pictures below about 100 x 100 px rest on a handful of pixels.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from bokeh_jax.evaluation.metrics import mae
from bokeh_jax.optics import srgb_to_linear, stack

_HIGHLIGHT_PERCENTILE = 99.9
_WHITE = 254.5 / 255.0
# Linear light of 8-bit black's neighbour: keeps ratios of black pictures finite.
_LEAST_LIGHT = 1.0 / 255.0 / 12.92

_stack, _decode = jax.jit(stack), jax.jit(srgb_to_linear)


def stacking_rms(
    answers: Float[np.ndarray, "m h w 3"],
    weights: Float[np.ndarray, "m h w"],
    blend: Float[np.ndarray, "h w 3"],
) -> float:
    """RMS by which answers to several planes of focus miss their blend.

    Args:
        answers: to M lenses that differ in focus alone.
        weights: summing to 1 over m (`optics.in_focus_weights`).
        blend: the answer to the blend, or the truths blended with the same weights.
    """
    blended = np.asarray(
        stack(jnp.asarray(answers, jnp.float32), jnp.asarray(weights, jnp.float32))
    )
    return float(np.sqrt(np.mean((blended - blend) ** 2)))


def unchanged_mae(
    result: Float[np.ndarray, "h w 3"],
    reference: Float[np.ndarray, "h w 3"],
    unchanged: Bool[np.ndarray, "h w"],
) -> float:
    """Change of pixels whose blur is to stay; NaN where there are none."""
    return float(mae(result, reference, unchanged))


def highlight_stops(result: Float[np.ndarray, "h w 3"], truth: Float[np.ndarray, "h w 3"]) -> float:
    """Brightness of the brightest lights against the truth's, in stops."""
    return math.log2(_highlight(result) / _highlight(truth))


def clipped_share(result: Float[np.ndarray, "h w 3"], truth: Float[np.ndarray, "h w 3"]) -> float:
    """Share of white pixels beyond the truth's."""
    shares = [float((image.max(axis=-1) >= _WHITE).mean()) for image in (result, truth)]
    return shares[0] - shares[1]


def _highlight(image: Float[np.ndarray, "h w 3"]) -> float:
    encoded = np.percentile(image.max(axis=-1), _HIGHLIGHT_PERCENTILE)
    return max(float(_decode(jnp.float32(encoded))), _LEAST_LIGHT)
