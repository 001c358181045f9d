"""All metrics of one answer by their names, and what each name means.

A name is that of a metric, or `metric/region` for a metric over one of the regions of `regions`.
What cannot be measured (no truth of the depth, no camera, no texture) is NaN, so every answer of a
table has the same columns. docs/metrics.md has the definitions side by side.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float

from bokeh_jax.evaluation import metrics
from bokeh_jax.evaluation.blur_level import BlurRuler, blur_ruler, measure_blur
from bokeh_jax.evaluation.consistency import clipped_share, highlight_stops, unchanged_mae
from bokeh_jax.evaluation.regions import Regions, find_regions, signed_radius_px, unchanged_pixels
from bokeh_jax.evaluation.sharpness import sharpest_plane_error_px
from bokeh_jax.optics import Lens

Picture = Float[np.ndarray, "h w 3"]
REGIONS = ("focus", "background", "occlusion")


@dataclasses.dataclass(frozen=True)
class MetricInfo:
    """What a metric's numbers mean.

    Attributes:
        title: for a table's head, with the unit.
        perfect: value of the truth itself; None where it has no fixed one.
        best: 'high', 'low', or 'zero' where either sign is an error.
    """

    title: str
    perfect: float | None
    best: str


METRICS: dict[str, MetricInfo] = {
    "psnr_db": MetricInfo("PSNR, dB", 20.0 * math.log10(4.0 * 255.0), "high"),
    "mae": MetricInfo("MAE", 0.0, "low"),
    "ssim": MetricInfo("SSIM", 1.0, "high"),
    "blur_error_px": MetricInfo("blur error, px", 0.0, "low"),
    "blur_relative_error": MetricInfo("blur error, relative", 0.0, "low"),
    "blur_censored_share": MetricInfo("blur beyond the search, share", 0.0, "low"),
    "focus_error_px": MetricInfo("focus error by radius, px", 0.0, "low"),
    "sharpest_plane_error_px": MetricInfo("focus error by sharpness, px", 0.0, "low"),
    "unchanged_mae": MetricInfo("change where blur stays, MAE", None, "low"),
    "highlight_stops": MetricInfo("highlights, stops", 0.0, "zero"),
    "clipped_share": MetricInfo("white pixels, share beyond the truth's", 0.0, "zero"),
    "lvcorr_genphoto": MetricInfo("LVCorr (Generative Photography)", 1.0, "high"),
    "lvcorr_genrefocus": MetricInfo("LVCorr (GenRefocus)", None, "high"),
    "lvcorr_rank": MetricInfo("LVCorr (ranks)", 1.0, "high"),
    "blur_range_stops": MetricInfo("blur range, stops", 0.0, "zero"),
    "stacking_rms": MetricInfo("stacking, RMS", 0.0, "low"),
    "lpips_alex": MetricInfo("LPIPS (AlexNet)", 0.0, "low"),
    "lpips_vgg": MetricInfo("LPIPS (VGG)", 0.0, "low"),
    "dists": MetricInfo("DISTS", 0.0, "low"),
    "clip_i": MetricInfo("CLIP-I", 1.0, "high"),
    "musiq": MetricInfo("MUSIQ", None, "high"),
}
# Those of `score_answer`, in its order; the first three also by region.
PIXEL_METRICS = ("psnr_db", "mae", "ssim")
ANSWER_METRICS = (
    *PIXEL_METRICS,
    *(f"{name}/{region}" for name in PIXEL_METRICS for region in REGIONS),
    "blur_error_px",
    "blur_relative_error",
    "blur_censored_share",
    "focus_error_px",
    "sharpest_plane_error_px",
    "unchanged_mae",
    "highlight_stops",
    "clipped_share",
)


@dataclasses.dataclass(frozen=True)
class Truth:
    """What answers to one question are scored against; see `prepare`.

    Attributes:
        image: the right answer.
        reference: what the method was given; None where unknown.
        all_in_focus: the scene without blur; None where unknown.
        disparity: true, of the visible surfaces; None where unknown.
        target: the asked lens; None where unknown.
        regions: None without disparity and target.
        unchanged: pixels to be left alone; None without the reference's lens.
        ruler: None without disparity and target.
    """

    image: Picture
    reference: Picture | None
    all_in_focus: Picture | None
    disparity: Float[np.ndarray, "h w"] | None
    target: Lens | None
    regions: Regions | None
    unchanged: Bool[np.ndarray, "h w"] | None
    ruler: BlurRuler | None


def prepare(
    image: Picture,
    *,
    reference: Picture | None = None,
    all_in_focus: Picture | None = None,
    disparity: Float[np.ndarray, "h w"] | None = None,
    target: Lens | None = None,
    reference_lens: Lens | None = None,
) -> Truth:
    """What all answers to one question share; fields as in `Truth`, pictures sRGB in [0, 1].

    Args:
        image: the right answer.
        reference: what the method is given.
        all_in_focus: the scene without blur.
        disparity: true, of the visible surfaces.
        target: the asked lens, of these pictures' width.
        reference_lens: the reference's, likewise.
    """
    regions = ruler = unchanged = None
    if disparity is not None and target is not None:
        regions = find_regions(disparity, target, reference_lens)
        lenses = [target] if reference_lens is None else [target, reference_lens]
        radii_px = [np.abs(signed_radius_px(disparity, lens)).max() for lens in lenses]
        ruler = blur_ruler(
            disparity,
            target,
            all_in_focus=all_in_focus,
            truth=image,
            # A reference left as it was must be within the search too.
            max_radius_px=2.0 * float(max(radii_px)) + 2.0,
        )
        if reference_lens is not None:
            unchanged = unchanged_pixels(disparity, target, reference_lens)
    return Truth(image, reference, all_in_focus, disparity, target, regions, unchanged, ruler)


def score_answer(result: Picture, truth: Truth) -> dict[str, float]:
    """Every metric of `ANSWER_METRICS`; NaN where it cannot be measured."""
    scores = dict.fromkeys(ANSWER_METRICS, math.nan) | _pixel_scores(result, truth)
    if truth.ruler is not None:
        levels = measure_blur(result, truth.ruler)
        scores["blur_error_px"] = levels.error_px()
        scores["blur_relative_error"] = levels.relative_error()
        scores["blur_censored_share"] = levels.censored_share()
        scores["focus_error_px"] = levels.focus_error_px()
    if truth.all_in_focus is not None and truth.disparity is not None and truth.target is not None:
        scores["sharpest_plane_error_px"] = sharpest_plane_error_px(
            result, truth.all_in_focus, truth.disparity, truth.target
        )
    if truth.reference is not None and truth.unchanged is not None:
        scores["unchanged_mae"] = unchanged_mae(result, truth.reference, truth.unchanged)
    scores["highlight_stops"] = highlight_stops(result, truth.image)
    scores["clipped_share"] = clipped_share(result, truth.image)
    return scores


def _pixel_scores(result: Picture, truth: Truth) -> dict[str, float]:
    """PSNR, MAE and SSIM of the picture and of its regions, each map made once."""
    difference = result.astype(np.float64) - truth.image
    squares, sizes = difference**2, np.abs(difference)
    windows = metrics.ssim_map(result, truth.image)
    scores = {}
    masks = {} if truth.regions is None else truth.regions.by_name()
    for region, mask in {"": None, **masks}.items():
        end = f"/{region}" if region else ""
        centres = None if mask is None else metrics.window_centres(mask)
        scores[f"psnr_db{end}"] = float(metrics.db_of(metrics.masked_mean(squares, mask)))
        scores[f"mae{end}"] = float(metrics.masked_mean(sizes, mask))
        scores[f"ssim{end}"] = float(metrics.masked_mean(windows, centres))
    return scores
