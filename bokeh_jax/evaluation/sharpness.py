"""What the Laplacian tells: LVCorr in its published variants, and which plane is sharp.

    L(I)   = the 5-point Laplacian of brightness (0.299 R + 0.587 G + 0.114 B) x 255, edges mirrored
    LV(I)  = variance of L(I) over a picture, or over a region of it

LVCorr asks whether sharpness follows the asked blur K over answers to one scene and one focus. The
papers mean different things by the name, so each has its own here:

    lvcorr_genphoto     Pearson(Δ LV(answers), Δ LV(truths)), Δ between consecutive answers
                        Generative Photography, arXiv 2412.02168, `accur_bokehK.py`
    lvcorr_genrefocus   −Pearson(K, LV(answers))
                        GenRefocus, arXiv 2512.16923, section 4.1: "between these K values and the
                        Laplacian variance trend"; reported positive, so the sign is turned. Its
                        table has DiffCamera (arXiv 2509.26599), whose own definition was not found
    lvcorr_rank         −Spearman(K, LV(answers)), over a region
                        a public reproduction of GenRefocus; real photographs score 1

1 is the best value. LV is no linear function of K, so the truth itself stays below 1 in
`lvcorr_genrefocus`: read it beside the truth's value. Where LV never changes there is no
correlation, which counts as 0.

    blur range    log2(LV(least blurred answer) / LV(most blurred)) minus the same of the truths, in
                  stops; 0 is perfect, below 0 the method blurs too little from end to end.
                  After the ratio LV(0) / LV(1) of the same reproduction; against the truth: ours
    focus error   asked radius of the plane p that keeps most of its sharpness,
                  Σ_p L(result)² / Σ_p L(all in focus)², less the least asked one, in px; 0 is
                  perfect. Ours. It needs no model of
                  the blur, as that of `blur_level` does, but takes added texture for sharpness
"""

import math

import cv2
import numpy as np
from jaxtyping import Bool, Float

from bokeh_jax.evaluation.regions import asked_planes, focus_choice_error_px, signed_radius_px
from bokeh_jax.optics import Lens

_BRIGHTNESS = np.array([0.299, 0.587, 0.114])
# Of the best plane's share of kept sharpness: less than this apart, planes share the place.
_SAME_SHARPNESS = 0.05
# Mean square of L, in 8-bit levels, below which a plane is smooth and says nothing.
_LEAST_ENERGY = 4.0
# Keeps ratios of smooth pictures finite; in squared 8-bit levels.
_LEAST_VARIANCE = 1e-3

Pictures = Float[np.ndarray, "n h w 3"]
Region = Bool[np.ndarray, "h w"]


def laplacian_variance(image: Float[np.ndarray, "h w 3"], region: Region | None = None) -> float:
    """LV of one picture, in squared 8-bit levels.

    Raises:
        ValueError: an empty region.
    """
    values = _laplacian(image)
    if region is not None:
        values = values[region]
    if values.size == 0:
        raise ValueError("region holds 0 pixels; allowed: at least 1")
    return float(values.var())


def lvcorr_genphoto(answers: Pictures, truths: Pictures, region: Region | None = None) -> float:
    """LVCorr of Generative Photography; answers and truths in the same order of blur, n ≥ 3."""
    changes = [np.diff(_variances(pictures, region)) for pictures in (answers, truths)]
    return _pearson(changes[0], changes[1])


def lvcorr_genrefocus(
    answers: Pictures, blurs: Float[np.ndarray, " n"], region: Region | None = None
) -> float:
    """LVCorr of GenRefocus; the blur K of every answer, in any unit, n ≥ 2."""
    return -_pearson(blurs.astype(np.float64), _variances(answers, region))


def lvcorr_rank(
    answers: Pictures, blurs: Float[np.ndarray, " n"], region: Region | None = None
) -> float:
    """LVCorr by ranks; equal values share their mean rank."""
    return -_pearson(_ranks(blurs.astype(np.float64)), _ranks(_variances(answers, region)))


def blur_range_stops(answers: Pictures, truths: Pictures, region: Region | None = None) -> float:
    """Blur range of answers from the least blurred to the most blurred, against the truths'."""
    ranges = []
    for pictures in (answers, truths):
        ends = _variances(pictures[[0, -1]], region) + _LEAST_VARIANCE
        ranges.append(math.log2(ends[0] / ends[1]))
    return ranges[0] - ranges[1]


def sharpest_plane_error_px(
    result: Float[np.ndarray, "h w 3"],
    all_in_focus: Float[np.ndarray, "h w 3"],
    disparity: Float[np.ndarray, "h w"],
    target: Lens,
) -> float:
    """Focus error of one result, in px.

    NaN where the planes that have texture leave nothing to choose.
    """
    energy, sharp_energy = _laplacian(result) ** 2, _laplacian(all_in_focus) ** 2
    planes = [
        plane
        for plane in asked_planes(disparity, target)
        if sharp_energy[plane].mean() >= _LEAST_ENERGY
    ]
    signed_px = np.abs(signed_radius_px(disparity, target))
    asked_px = np.array([signed_px[plane].mean() for plane in planes])
    kept = np.array([energy[plane].mean() / sharp_energy[plane].mean() for plane in planes])
    return focus_choice_error_px(asked_px, kept >= (1.0 - _SAME_SHARPNESS) * kept.max(initial=0.0))


def _laplacian(image: Float[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w"]:
    return cv2.Laplacian(255.0 * (image.astype(np.float64) @ _BRIGHTNESS), cv2.CV_64F)


def _variances(pictures: Pictures, region: Region | None) -> Float[np.ndarray, " n"]:
    return np.array([laplacian_variance(picture, region) for picture in pictures])


def _pearson(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float:
    """Pearson's correlation; 0 where one side is constant."""
    a, b = a - a.mean(), b - b.mean()
    norm = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / norm if norm > 0 else 0.0


def _ranks(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Ranks from 0, equal values at the mean of theirs."""
    less = (values[None, :] < values[:, None]).sum(axis=1)
    same = (values[None, :] == values[:, None]).sum(axis=1)
    return less + 0.5 * (same - 1)
