"""How much a result is really blurred, plane by plane: radii measured against the asked ones.

A plane is what lies at one asked signed radius: s(x) = K (d(x) − d_f) rounded to whole pixels, away
from silhouettes (`regions.occlusion_band`). With D_r the disc of radius r in linear light and the
sum over a plane's pixels, in sRGB-encoded values:

    measured = argmin over r of  Σ ‖result − D_r * A‖²,         A the all-in-focus photograph

Where A is not known, the truth T, blurred by |s|, stands for it. Variances of convolved discs add:

    Σ ‖result − D_ρ * T‖² least, for a result blurred too much:     measured = √(s² + ρ²)
    Σ ‖D_ρ * result − T‖² least, for one blurred too little:        measured = √(max(s² − ρ², 0))

whichever fits better. Radii are searched on a grid (0, 0.75 px, then 0.5 px apart, 10 % from 5 px
on; up to 0.5 px a disc fits into one pixel and cannot be told from none) and refined by the
parabola through the best one and its neighbours.

Lenses with another opening than a disc get the radius of the disc that comes nearest.

A plane without texture says nothing: it counts only where the largest blur of the grid changes A
(or T) by 1/255 or more, whatever the result is. A radius found at the grid's end is censored: it is
that or more.

    blur error          Σ n |measured − asked| / Σ n over planes of n pixels, in px; 0 is perfect
    relative            the same of |measured − asked| / max(asked, 1 px)
    focus error         asked radius of the plane that was measured sharpest, less the least asked
                        radius of the measured planes, in px; 0 is perfect

The idea of reading the blur off by re-rendering is that of the searches over K by SSIM which
BokehMe, BokehDiff and GenRefocus (arXiv 2512.16923, equation 5) make before they score; here what
is found is the score. Measuring by planes and censoring are ours.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from bokeh_jax.evaluation.regions import asked_planes, focus_choice_error_px, signed_radius_px
from bokeh_jax.optics import Disc, Lens, aperture_kernel, linear_to_srgb, srgb_to_linear

_LEAST_RADIUS_PX = 0.75
_FINE_STEP_PX = 0.5
_FINE_UNTIL_PX = 5.0
_COARSE_RATIO = 1.1
# A blur that changes less than one level of an 8-bit file cannot be measured in it.
_LEAST_CHANGE = 1.0 / 255.0

# Compiled once for a shape, where eager calls would compile every operation.
_decode, _encode = jax.jit(srgb_to_linear), jax.jit(linear_to_srgb)

Picture = Float[np.ndarray, "h w 3"]


@dataclasses.dataclass(frozen=True)
class BlurLevels:
    """Radii of blur of a result's planes, from the farthest to the nearest.

    Attributes:
        asked_px: mean |s| of the plane, [p].
        measured_px: radius found, [p].
        pixels: number of pixels, [p].
        censored: the radius is at the end of the search, [p].
        share: of the picture's pixels that these planes hold.
    """

    asked_px: Float[np.ndarray, " p"]
    measured_px: Float[np.ndarray, " p"]
    pixels: Float[np.ndarray, " p"]
    censored: Bool[np.ndarray, " p"]
    share: float

    def error_px(self) -> float:
        """Blur error; NaN where no plane could be measured."""
        return self._mean(np.abs(self.measured_px - self.asked_px))

    def relative_error(self) -> float:
        """Relative blur error; NaN where no plane could be measured."""
        errors = np.abs(self.measured_px - self.asked_px)
        return self._mean(errors / np.maximum(self.asked_px, 1.0))

    def focus_error_px(self) -> float:
        """Focus error; NaN where the measured planes leave nothing to choose.

        Planes as sharp as the sharpest, within a quarter of a pixel, share the place.
        """
        sharpest = self.measured_px <= self.measured_px.min(initial=math.inf) + 0.25
        return focus_choice_error_px(self.asked_px, sharpest)

    def censored_share(self) -> float:
        """Of the measured pixels, how many have a radius that the search's end cut off."""
        return self._mean(self.censored.astype(np.float64))

    def _mean(self, values: Float[np.ndarray, " p"]) -> float:
        return float(np.average(values, weights=self.pixels)) if self.pixels.size else math.nan


@dataclasses.dataclass(frozen=True)
class BlurRuler:
    """What results of one question are measured with; see `blur_ruler`.

    Attributes:
        known: the all-in-focus photograph, or the truth.
        blurred: `known` blurred by every radius of the search.
        radii_px: of the search, [n].
        planes: masks of the planes that say something.
        asked_px: mean |s| of each, [p].
        from_truth: `known` is the truth.
    """

    known: Picture
    blurred: tuple[Picture, ...]
    radii_px: Float[np.ndarray, " n"]
    planes: tuple[Bool[np.ndarray, "h w"], ...]
    asked_px: Float[np.ndarray, " p"]
    from_truth: bool


def blur_ruler(
    disparity: Float[np.ndarray, "h w"],
    target: Lens,
    *,
    all_in_focus: Picture | None = None,
    truth: Picture | None = None,
    max_radius_px: float | None = None,
) -> BlurRuler:
    """Prepares what does not depend on a result. Holds a picture for every radius of the search.

    Args:
        disparity: true, of the visible surfaces.
        target: the asked lens.
        all_in_focus: the scene without blur, where it is known; sRGB in [0, 1].
        truth: the right answer, used where `all_in_focus` is None.
        max_radius_px: end of the search; twice the largest asked radius and 2 px by default.

    Raises:
        ValueError: neither an all-in-focus photograph nor the truth is given.
    """
    known = truth if all_in_focus is None else all_in_focus
    if known is None:
        raise ValueError("all_in_focus and truth are None; allowed: one of them")
    radius_px = np.abs(signed_radius_px(disparity, target))
    if max_radius_px is None:
        max_radius_px = 2.0 * float(radius_px.max()) + 2.0
    radii_px = _search_radii_px(max_radius_px)
    blurred = _blurred(known, radii_px)
    planes = asked_planes(disparity, target)
    change = _plane_means((blurred[-1] - known) ** 2, planes)
    told = tuple(
        plane for plane, square in zip(planes, change, strict=True) if square >= _LEAST_CHANGE**2
    )
    asked_px = np.array([radius_px[plane].mean() for plane in told])
    return BlurRuler(known, blurred, radii_px, told, asked_px, all_in_focus is None)


def measure_blur(result: Picture, ruler: BlurRuler) -> BlurLevels:
    """Measures a result's blur (sRGB in [0, 1]) on every plane."""
    blurrier = np.stack(
        [_plane_means((result - other) ** 2, ruler.planes) for other in ruler.blurred]
    )
    found_px, least = _least(ruler.radii_px, blurrier)
    censored = found_px >= ruler.radii_px[-1]
    if ruler.from_truth:
        own = _blurred(result, ruler.radii_px)
        sharper = np.stack(
            [_plane_means((other - ruler.known) ** 2, ruler.planes) for other in own]
        )
        less_px, least_sharper = _least(ruler.radii_px, sharper)
        blurrier_fits = least <= least_sharper
        squares = np.where(blurrier_fits, found_px**2, -(less_px**2))
        found_px = np.sqrt(np.maximum(ruler.asked_px**2 + squares, 0.0))
        censored = np.where(blurrier_fits, censored, less_px >= ruler.radii_px[-1])
    pixels = np.array([float(plane.sum()) for plane in ruler.planes])
    share = float(pixels.sum()) / (result.shape[0] * result.shape[1])
    return BlurLevels(ruler.asked_px, found_px, pixels, censored, share)


def _search_radii_px(max_radius_px: float) -> Float[np.ndarray, " n"]:
    """The grid of the search, from 0 to `max_radius_px` or a little more."""
    radii = [0.0, _LEAST_RADIUS_PX]
    while radii[-1] < max_radius_px or len(radii) < 3:
        last = radii[-1]
        radii.append(last + _FINE_STEP_PX if last < _FINE_UNTIL_PX else last * _COARSE_RATIO)
    return np.array(radii)


def _blurred(image: Picture, radii_px: Float[np.ndarray, " n"]) -> tuple[Picture, ...]:
    """An sRGB picture blurred evenly by every radius in linear light, edges replicated."""
    linear = np.asarray(_decode(jnp.asarray(image, jnp.float32)))
    pictures = [image]
    for radius_px in radii_px[1:]:
        light = cv2.filter2D(linear, -1, _disc(float(radius_px)), borderType=cv2.BORDER_REPLICATE)
        pictures.append(np.clip(np.asarray(_encode(jnp.asarray(light))), 0.0, 1.0))
    return tuple(pictures)


# The radii of every search begin alike, so few kernels serve all pictures.
@functools.lru_cache(maxsize=256)
def _disc(radius_px: float) -> Float[np.ndarray, "k k"]:
    return np.asarray(aperture_kernel(Disc(), radius_px, math.ceil(radius_px))).astype(np.float32)


def _plane_means(
    values: Float[np.ndarray, "h w 3"], planes: Sequence[Bool[np.ndarray, "h w"]]
) -> Float[np.ndarray, " p"]:
    per_pixel = values.mean(axis=-1)
    return np.array([per_pixel[plane].mean() for plane in planes], np.float64)


def _least(
    radii_px: Float[np.ndarray, " n"], errors: Float[np.ndarray, "n p"]
) -> tuple[Float[np.ndarray, " p"], Float[np.ndarray, " p"]]:
    """Where every plane's error is least, between grid points, and how large it is there."""
    best = errors.argmin(axis=0)
    middle = np.clip(best, 1, len(radii_px) - 2)
    plane = np.arange(errors.shape[1])
    x0, x1, x2 = (radii_px[middle + step] for step in (-1, 0, 1))
    y0, y1, y2 = (errors[middle + step, plane] for step in (-1, 0, 1))
    # Vertex of the parabola through three points that need not be equally far apart.
    slope_01, slope_12 = (y1 - y0) / (x1 - x0), (y2 - y1) / (x2 - x1)
    bend = (slope_12 - slope_01) / (x2 - x0)
    vertex = 0.5 * (x0 + x1) - 0.5 * slope_01 / np.where(bend > 0, bend, 1.0)
    inside = (bend > 0) & (best == middle)
    found = np.where(inside, np.clip(vertex, x0, x2), radii_px[best])
    return found, errors[best, plane]
