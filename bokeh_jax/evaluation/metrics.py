"""Image metrics, on sRGB-encoded values in [0, 1].

    MAE(a, b)  = mean |a − b|                      over pixels and channels of one image
    MSE(a, b)  = mean (a − b)²                     likewise
    PSNR       = −10 log10 MSE                     in dB, peak 1
    SSIM(a, b) = mean of (2 μ_a μ_b + C1)(2 σ_ab + C2) / ((μ_a² + μ_b² + C1)(σ_a² + σ_b² + C2))

μ, σ² and σ_ab are means, variances and covariance under a Gaussian window of standard deviation
1.5 px and 11 x 11 taps, channel by channel; C1 = 0.01², C2 = 0.03². Only windows that lie within
the picture count (Wang, Bovik, Sheikh & Simoncelli, "Image quality assessment: from error
visibility to structural similarity", IEEE TIP 2004; there on brightness alone).

With a mask w the means over pixels are Σ w x / Σ w; SSIM's w is that of the window's centre. Where
a mask is empty the value is NaN: nothing was measured. The metric of a set is the mean over images
(not the PSNR of the mean MSE): every image counts once.

`mean_with_interval` gives the normal interval of a mean, mean ± 1.96 s / √n; `statistics` gives
bootstrap intervals and paired differences in the same type.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float, Shaped

# 8-bit images cannot show a smaller error; keeps a perfect answer finite.
_LEAST_MSE = (0.25 / 255.0) ** 2
_SSIM_SIGMA_PX = 1.5
_SSIM_REACH_PX = 5
_C1, _C2 = 0.01**2, 0.03**2

Mask = Float[np.ndarray, "*b h w"] | Bool[np.ndarray, "*b h w"]


def mae(
    image: Float[np.ndarray, "*b h w c"],
    truth: Float[np.ndarray, "*b h w c"],
    mask: Mask | None = None,
) -> Float[np.ndarray, "*b"]:
    """Mean absolute error of every image against its truth; 0 is perfect, 1 black for white."""
    return masked_mean(np.abs(image.astype(np.float64) - truth), mask)


def psnr_db(
    image: Float[np.ndarray, "*b h w c"],
    truth: Float[np.ndarray, "*b h w c"],
    mask: Mask | None = None,
) -> Float[np.ndarray, "*b"]:
    """PSNR of every image against its truth, in dB; at most 60.2 (a quarter of an 8-bit step)."""
    return db_of(masked_mean((image.astype(np.float64) - truth) ** 2, mask))


def db_of(mean_square: Float[np.ndarray, "*b"]) -> Float[np.ndarray, "*b"]:
    """PSNR of a mean squared error, in dB."""
    return np.asarray(-10.0 * np.log10(np.maximum(mean_square, _LEAST_MSE)))


def ssim(
    image: Float[np.ndarray, "*b h w c"],
    truth: Float[np.ndarray, "*b h w c"],
    mask: Mask | None = None,
) -> Float[np.ndarray, "*b"]:
    """SSIM of every image against its truth; 1 is perfect. A mask's outer 5 pixels do not count."""
    return masked_mean(ssim_map(image, truth), None if mask is None else window_centres(mask))


def window_centres(mask: Mask) -> Shaped[np.ndarray, "*b i j"]:
    """The part of a mask that `ssim_map` has values of."""
    return mask[..., _SSIM_REACH_PX:-_SSIM_REACH_PX, _SSIM_REACH_PX:-_SSIM_REACH_PX]


def ssim_map(
    image: Float[np.ndarray, "*b h w c"], truth: Float[np.ndarray, "*b h w c"]
) -> Float[np.ndarray, "*b i j c"]:
    """SSIM of every window that lies within the picture: i = h − 10, j = w − 10.

    Raises:
        ValueError: a picture smaller than a window.
    """
    size = 2 * _SSIM_REACH_PX + 1
    if min(image.shape[-3:-1]) < size:
        raise ValueError(f"picture is {image.shape[-3:-1]}; allowed: {size} x {size} px or more")
    a, b = image.astype(np.float64), truth.astype(np.float64)
    mean_a, mean_b = _window_mean(a), _window_mean(b)
    var_a, var_b = _window_mean(a * a) - mean_a**2, _window_mean(b * b) - mean_b**2
    covariance = _window_mean(a * b) - mean_a * mean_b
    same_light = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    return same_light * (2 * covariance + _C2) / (var_a + var_b + _C2)


def _window_mean(planes: Float[np.ndarray, "*b h w c"]) -> Float[np.ndarray, "*b i j c"]:
    """Gaussian mean over every window within the picture."""
    offsets = np.arange(-_SSIM_REACH_PX, _SSIM_REACH_PX + 1)
    taps = np.exp(-0.5 * (offsets / _SSIM_SIGMA_PX) ** 2)
    taps /= taps.sum()
    for axis in (-3, -2):
        planes = np.lib.stride_tricks.sliding_window_view(planes, len(taps), axis=axis) @ taps
    return planes


def masked_mean(
    values: Float[np.ndarray, "*b h w c"], mask: Mask | None = None
) -> Float[np.ndarray, "*b"]:
    """Mean over pixels and channels, weighted by a mask; NaN where the mask is empty."""
    per_pixel = values.mean(axis=-1)
    if mask is None:
        return np.asarray(per_pixel.mean(axis=(-2, -1)))
    weights = mask.astype(np.float64)
    total = weights.sum(axis=(-2, -1))
    found = (per_pixel * weights).sum(axis=(-2, -1)) / np.where(total > 0, total, 1.0)
    return np.where(total > 0, found, np.nan)


@dataclasses.dataclass(frozen=True)
class Mean:
    """Mean of a sample with its 95 % interval.

    Attributes:
        mean: of the values.
        half_width: half the interval's width.
        count: number of values.
        low: lower end; mean − half_width unless given (bootstrap intervals lean to one side).
        high: upper end, likewise.
    """

    mean: float
    half_width: float
    count: int
    low: float = math.nan
    high: float = math.nan

    def __post_init__(self):
        if math.isnan(self.low):
            object.__setattr__(self, "low", self.mean - self.half_width)
        if math.isnan(self.high):
            object.__setattr__(self, "high", self.mean + self.half_width)

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
