"""Regions of a refocused photograph: in focus, background, occlusion band, to be left unchanged.

With d the true disparity, s(x) = K (d(x) − d_f) the signed radius of blur in px of the target lens,
and r(x) that of the reference's lens, where it is known:

    step        neighbours p, q (side by side, or one above the other) whose signed radii differ by
                more than 1 px in one of the lenses: blur of one surface may reach over the other
    occlusion   pixels within R of a pixel at a step, R = the largest |s|, |r| of its two sides,
                rounded up to whole pixels: all that light of either side can reach
    focus       |s| ≤ 0.5 px, not in the occlusion band: a disc that a pixel holds
    background  the rest: blurred, in front of or behind the focus

Every pixel is in one of the three. All lengths are pixels of the photograph at hand, not fractions
of its width: half a pixel of blur is invisible at any size. These definitions are ours; papers
report whole pictures (a reproduction of GenRefocus, arXiv 2512.16923, found that whole pictures
hide a blurred focus region, and split focus from background).

    planes      pixels of one signed radius, rounded to whole pixels, not in the occlusion band and
                at least 32: what is measured plane by plane is measured on these

    unchanged   ||s| − |r|| ≤ 0.25 px, not in the occlusion band: refocusing is to leave these alone
"""

import dataclasses
import math

import cv2
import numpy as np
from jaxtyping import Bool, Float

from bokeh_jax.optics import Lens

STEP_PX = 1.0
FOCUS_RADIUS_PX = 0.5
UNCHANGED_RADIUS_PX = 0.25
LEAST_PLANE_PIXELS = 32
_NAMES = ("focus", "background", "occlusion")


@dataclasses.dataclass(frozen=True)
class Regions:
    """A picture's pixels in three parts.

    Attributes:
        focus: to be sharp.
        background: to be blurred, away from silhouettes.
        occlusion: where blur of one surface meets another.
    """

    focus: Bool[np.ndarray, "h w"]
    background: Bool[np.ndarray, "h w"]
    occlusion: Bool[np.ndarray, "h w"]

    def by_name(self) -> dict[str, Bool[np.ndarray, "h w"]]:
        """Masks by their names."""
        return {name: getattr(self, name) for name in _NAMES}


def find_regions(
    disparity: Float[np.ndarray, "h w"],
    target: Lens,
    reference: Lens | None = None,
    *,
    focus_radius_px: float = FOCUS_RADIUS_PX,
) -> Regions:
    """Regions of one photograph.

    Args:
        disparity: true, of the visible surfaces.
        target: the asked lens.
        reference: the reference photograph's, where it is known; its blur reaches as well.
        focus_radius_px: largest radius that counts as in focus.
    """
    target_px = signed_radius_px(disparity, target)
    occlusion = occlusion_band(disparity, target, reference)
    focus = (np.abs(target_px) <= focus_radius_px) & ~occlusion
    return Regions(focus, ~focus & ~occlusion, occlusion)


def unchanged_pixels(
    disparity: Float[np.ndarray, "h w"],
    target: Lens,
    reference: Lens,
    *,
    tolerance_px: float = UNCHANGED_RADIUS_PX,
) -> Bool[np.ndarray, "h w"]:
    """Pixels that are as sharp in the target as in the reference; may be none."""
    change_px = np.abs(signed_radius_px(disparity, target)) - np.abs(
        signed_radius_px(disparity, reference)
    )
    return (np.abs(change_px) <= tolerance_px) & ~occlusion_band(disparity, target, reference)


def asked_planes(
    disparity: Float[np.ndarray, "h w"], target: Lens
) -> list[Bool[np.ndarray, "h w"]]:
    """Masks of the planes of one lens, the farthest first; small ones are left out."""
    level_px = np.rint(signed_radius_px(disparity, target))
    free = ~occlusion_band(disparity, target)
    masks = [(level_px == value) & free for value in np.unique(level_px)]
    return [mask for mask in masks if mask.sum() >= LEAST_PLANE_PIXELS]


def focus_choice_error_px(
    asked_px: Float[np.ndarray, " p"], chosen: Bool[np.ndarray, " p"]
) -> float:
    """How much blur was asked of the planes found sharpest, beyond the least of all planes, in px.

    Of several that share the place the least counts. NaN where the planes' asked radii are less
    than 1 px apart: then there is nothing to choose.
    """
    if asked_px.size == 0 or np.ptp(asked_px) < 1.0:
        return math.nan
    return float(asked_px[chosen].min() - asked_px.min())


def occlusion_band(
    disparity: Float[np.ndarray, "h w"], target: Lens, reference: Lens | None = None
) -> Bool[np.ndarray, "h w"]:
    """Pixels that light of another surface may reach."""
    lenses = [target] if reference is None else [target, reference]
    radii_px = np.abs([signed_radius_px(disparity, lens) for lens in lenses]).max(axis=0)
    most_blur_px = max(float(lens.blur_px) for lens in lenses)
    reach_px = np.zeros(disparity.shape)
    for axis in (0, 1):
        # Views: what is written to them is written to the maps.
        first, second = (
            (plane[:-1], plane[1:]) if axis == 0 else (plane[:, :-1], plane[:, 1:])
            for plane in (radii_px, reach_px)
        )
        stepped = most_blur_px * np.abs(np.diff(disparity.astype(np.float64), axis=axis)) > STEP_PX
        at_step = np.where(stepped, np.maximum(*first), 0.0)
        for side in second:
            np.maximum(side, at_step, out=side)
    return _within(reach_px)


def signed_radius_px(disparity: Float[np.ndarray, "h w"], lens: Lens) -> Float[np.ndarray, "h w"]:
    """Signed radius of blur of one lens, on the host."""
    return float(lens.blur_px) * (disparity.astype(np.float64) - float(lens.focus_disparity))


def _within(reach_px: Float[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Pixels within the reach of a pixel that has one, reaches rounded up to whole pixels."""
    band = np.zeros(reach_px.shape, bool)
    whole_px = np.ceil(reach_px).astype(np.int64)
    for size_px in np.unique(whole_px[whole_px > 0]):
        elsewhere = (whole_px != size_px).astype(np.uint8)
        away_px = cv2.distanceTransform(elsewhere, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        band |= away_px <= size_px
    return band
