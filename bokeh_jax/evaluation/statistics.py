"""Bootstrap intervals of means, and paired differences between methods.

The n images of a set are drawn again n times with replacement, B times over; the spread of the B
means is that of the mean. 95 % intervals:

    percentile   [θ*_(α), θ*_(1−α)],  α = 0.025, of the resampled means θ*
    BCa          the same at α1, α2 moved by the bias z0 and the acceleration a (from the jackknife)

BCa, the default, is right to second order where values are skewed, as errors are (Efron, "Better
bootstrap confidence intervals", JASA 1987); computed by SciPy. Draws come from a seed, so a table
made twice is the same.

Differences between two methods are taken image by image before averaging, so that what all methods
find hard cancels.
"""

import math
from typing import Literal

import numpy as np
from jaxtyping import Float

from bokeh_jax.evaluation.metrics import Mean

Method = Literal["BCa", "percentile"]


def bootstrap_mean(
    values: Float[np.ndarray, " n"],
    *,
    seed: int = 0,
    num_resamples: int = 2000,
    method: Method = "BCa",
) -> Mean:
    """Mean and bootstrap 95 % interval of finite values; others were not measured and are left out.

    Of one value the interval is infinite, of equal ones it has no width.

    Args:
        values: one an image; NaN where nothing was measured.
        seed: of the draws.
        num_resamples: B.
        method: see the module's head.

    Raises:
        ValueError: no finite value.
    """
    # Only where it is used: SciPy's statistics take a second to import.
    from scipy.stats import bootstrap

    found = values[np.isfinite(values)].astype(np.float64)
    if found.size == 0:
        raise ValueError("mean of 0 finite values; allowed: at least 1")
    mean = float(found.mean())
    if found.size == 1:
        return Mean(mean, math.inf, 1)
    if np.ptp(found) == 0.0:
        return Mean(mean, 0.0, int(found.size))
    interval = bootstrap(
        (found,),
        np.mean,
        n_resamples=num_resamples,
        confidence_level=0.95,
        method=method,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    low, high = float(interval.low), float(interval.high)
    return Mean(mean, 0.5 * (high - low), int(found.size), low, high)


def paired_difference(
    ours: Float[np.ndarray, " n"],
    theirs: Float[np.ndarray, " m"],
    *,
    seed: int = 0,
    num_resamples: int = 2000,
    method: Method = "BCa",
) -> Mean:
    """Mean of ours − theirs over images that both have a value of, with its interval.

    The two methods are told apart where the interval leaves out 0.

    Raises:
        ValueError: samples of different sizes, or no image with both values.
    """
    if ours.shape != theirs.shape:
        raise ValueError(f"samples have {ours.size} and {theirs.size} values; allowed: as many")
    return bootstrap_mean(ours - theirs, seed=seed, num_resamples=num_resamples, method=method)
