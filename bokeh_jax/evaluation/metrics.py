"""Image metrics, on sRGB-encoded values in [0, 1].

    MSE(a, b)  = mean (a − b)²                    over pixels and channels of one image
    PSNR       = −10 log10 MSE                     in dB, peak 1
    PSNR of a set is the mean over images (not the PSNR of the mean MSE): every image counts once.

The interval of a mean over n images is its 95 % normal one, mean ± 1.96 s / √n. Differences between
two methods are taken image by image before averaging, so that what all methods find hard cancels.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Float

# 8-bit images cannot show a smaller error; keeps a perfect answer finite.
_LEAST_MSE = (0.25 / 255.0) ** 2


def psnr_db(
    image: Float[np.ndarray, "*b h w c"], truth: Float[np.ndarray, "*b h w c"]
) -> Float[np.ndarray, "*b"]:
    """PSNR of every image against its truth, in dB; at most 60.2 (a quarter of an 8-bit step)."""
    mean_square = np.mean((image.astype(np.float64) - truth) ** 2, axis=(-3, -2, -1))
    return -10.0 * np.log10(np.maximum(mean_square, _LEAST_MSE))


@dataclasses.dataclass(frozen=True)
class Mean:
    """Mean of a sample with the half width of its 95 % interval."""

    mean: float
    half_width: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.half_width:.2f}"


def mean_with_interval(values: Float[np.ndarray, " n"]) -> Mean:
    """Mean and 95 % interval.

    Raises:
        ValueError: no values.
    """
    if values.size == 0:
        raise ValueError("mean of 0 values; allowed: at least 1")
    spread = float(values.std(ddof=1)) / math.sqrt(values.size) if values.size > 1 else math.inf
    return Mean(float(values.mean()), 1.96 * spread, int(values.size))
