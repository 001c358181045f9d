"""Does the aperture do what an aperture does? Photographs of one scene from f/1.4 to f/22.

Photographs of one scene, one focus and falling f-numbers, so growing blur K₁ < … < K_n, with the
disparity that the lens saw. Regions are those of the widest aperture (`regions`):

    violations      share of steps i → i + 1 at which the background's Laplacian variance grows
    lvcorr_*        of the background (`sharpness`): by ranks, and as GenRefocus has it
    focus_psnr_db   region in focus, widest against narrowest aperture: what must not change
    whole_psnr_db   the same of the whole picture, to see that something did change

Of what has no lens that says where the regions are, the same over the whole picture, and how much
the scene is another one:

    whole_violations, whole_lvcorr_rank     as above
    scene_change    root mean square of G (widest − narrowest), G a Gaussian of σ = w · width, in
                    sRGB-encoded values

Blur by a lens moves light no farther than its radius, so a G that is wider hides most of it and
leaves what was moved, put in or taken out. Of scenes with a lens, all of it is blur.

A lens cannot change what is in focus. A generator that is told of the aperture can: this is what is
compared (Camera Settings as Tokens, Fang et al. 2024; arXiv 2510.06215 measures it too).

For focus, photographs of one aperture and several focus planes: `sharpest_plane_error_px` of each.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from numpy.lib.stride_tricks import sliding_window_view

from bokeh_jax.evaluation.regions import LEAST_PLANE_PIXELS, find_regions
from bokeh_jax.evaluation.sharpness import laplacian_variance, lvcorr_genrefocus, lvcorr_rank
from bokeh_jax.optics import Lens

# An 8-bit file tells no differences that are smaller.
_LEAST_SQUARE = (0.5 / 255.0) ** 2 / 3.0
# Growth of the variance below this share is rounding.
_ROUNDING = 1e-3
# Background variance of the narrowest aperture, 8-bit levels squared, below which there is nothing
# to see blurred.
_LEAST_TEXTURE = 4.0
# A Gaussian is cut where it has fallen to 1 %.
_REACH = 3.0


@dataclasses.dataclass(frozen=True)
class ApertureScores:
    """Of one scene; NaN where its regions leave nothing to measure.

    Attributes:
        violations: share of the steps.
        lvcorr_rank, lvcorr_genrefocus: of the background.
        focus_psnr_db, whole_psnr_db: widest against narrowest.
    """

    violations: float
    lvcorr_rank: float
    lvcorr_genrefocus: float
    focus_psnr_db: float
    whole_psnr_db: float


@dataclasses.dataclass(frozen=True)
class WholeScores:
    """Of one scene, over all of its pictures.

    Attributes:
        whole_violations: share of the steps; NaN of a smooth scene.
        whole_lvcorr_rank: likewise.
        scene_change: widest against narrowest.
    """

    whole_violations: float
    whole_lvcorr_rank: float
    scene_change: float


def score_apertures(
    photographs: Sequence[Float[np.ndarray, "h w 3"]],
    lenses: Sequence[Lens],
    disparity: Float[np.ndarray, "h w"],
) -> ApertureScores:
    """Scores of one scene.

    Args:
        photographs: sRGB-encoded, [0, 1], least blurred first.
        lenses: theirs, of relative disparity; of one focus.
        disparity: of the scene.

    Raises:
        ValueError: fewer than 2 photographs, or blur that does not grow.
    """
    blurs = np.array([float(lens.blur_px) for lens in lenses])
    if len(photographs) != len(lenses) or len(lenses) < 2 or (np.diff(blurs) <= 0).any():
        raise ValueError(
            f"{len(photographs)} photographs with blurs {blurs}; allowed: 2 or more, growing blurs"
        )
    regions = find_regions(disparity, lenses[-1])
    stack = np.stack(photographs)
    narrowest, widest = stack[0], stack[-1]
    violations, rank = _trend(stack, blurs, regions.background)
    correlation = math.nan
    if math.isfinite(rank):
        correlation = lvcorr_genrefocus(stack, blurs, regions.background)
    return ApertureScores(
        violations=violations,
        lvcorr_rank=rank,
        lvcorr_genrefocus=correlation,
        focus_psnr_db=_psnr_db(narrowest, widest, regions.focus),
        whole_psnr_db=_psnr_db(narrowest, widest, np.ones(disparity.shape, bool)),
    )


def score_whole(
    photographs: Sequence[Float[np.ndarray, "h w 3"]], f_numbers: Sequence[float]
) -> WholeScores:
    """Scores of one scene that need no lens.

    Args:
        photographs: sRGB-encoded, [0, 1], narrowest aperture first.
        f_numbers: theirs.

    Raises:
        ValueError: fewer than 2 photographs, or f-numbers that do not fall.
    """
    if len(photographs) != len(f_numbers) or len(f_numbers) < 2 or (np.diff(f_numbers) >= 0).any():
        raise ValueError(
            f"{len(photographs)} photographs with f-numbers {f_numbers}; allowed: 2 or more, "
            "falling f-numbers"
        )
    stack = np.stack(photographs)
    everywhere = np.ones(stack.shape[1:3], bool)
    violations, rank = _trend(stack, 1.0 / np.asarray(f_numbers), everywhere)
    return WholeScores(violations, rank, scene_change(stack[-1], stack[0]))


def scene_change(
    first: Float[np.ndarray, "h w 3"],
    second: Float[np.ndarray, "h w 3"],
    low_pass: float = 0.1,
) -> float:
    """`scene_change` of two photographs; frames go on beyond their edges as mirrors.

    Args:
        first: sRGB-encoded, [0, 1].
        second: of the same size.
        low_pass: σ over the width.
    """
    sigma_px = low_pass * first.shape[1]
    reach = min(math.ceil(_REACH * sigma_px), min(first.shape[:2]) - 1)
    taps = np.exp(-0.5 * np.square(np.arange(-reach, reach + 1) / sigma_px))
    taps /= taps.sum()
    change = np.pad(first - second, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    for axis in (0, 1):
        change = sliding_window_view(change, taps.size, axis=axis) @ taps
    return float(np.sqrt(np.mean(np.square(change))))


def _trend(
    stack: Float[np.ndarray, "n h w 3"],
    blurs: Float[np.ndarray, " n"],
    region: Bool[np.ndarray, "h w"],
) -> tuple[float, float]:
    """(violations, LVCorr by ranks) of a region; NaN where it shows no blur."""
    if not _shows_blur(stack[0], region):
        return math.nan, math.nan
    variances = np.array([laplacian_variance(image, region) for image in stack])
    violations = float(np.mean(variances[1:] > (1 + _ROUNDING) * variances[:-1]))
    return violations, lvcorr_rank(stack, blurs, region)


def _shows_blur(image: Float[np.ndarray, "h w 3"], region: Bool[np.ndarray, "h w"]) -> bool:
    enough = int(region.sum()) >= LEAST_PLANE_PIXELS
    return enough and laplacian_variance(image, region) >= _LEAST_TEXTURE


def _psnr_db(
    first: Float[np.ndarray, "h w 3"],
    second: Float[np.ndarray, "h w 3"],
    region: Bool[np.ndarray, "h w"],
) -> float:
    if int(region.sum()) < LEAST_PLANE_PIXELS:
        return math.nan
    square = float(np.mean(np.square(first[region] - second[region]), dtype=np.float64))
    return -10.0 * math.log10(max(square, _LEAST_SQUARE))
