"""Which camera takes a scene, and how the scene stands before it in metres.

A frame of other proportions than the sensor is cut out of its middle, a frame taller than wide with
the camera upright; W is the width of the sensor, in metres, that the frame shows, f the focal
length and N the f-number. The subject stands at the distance s, drawn log-uniformly so that the
frame shows `FIELD_M` of it from side to side, W (s − f) / f, and not nearer than the lens focuses.

A scene's relative disparity d stands for D = low + m d in 1/m. With δ the subject's, focus demands
low + m δ = 1/s. Nothing may be beyond infinity (low >= 0) and nothing nearer than `NEAREST` s::

    m <= 1 / (s δ),      m <= (1/(NEAREST s) − 1/s) / (1 − δ).

m is a random share of the least of the two. The radius of the blur of what has disparity d is, for
an image w pixels wide (the thin lens, see `bokeh_jax.optics.lens`)::

    r = (K₁ / N) m |d − δ|,      K₁ = f² / 2 · s / (s − f) · w / W.

The f-number is drawn from the third stops that the lens has and that keep the largest r within
`max_radius_px`; where even its narrowest does not, the scene is made shallower.
"""

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from bokeh_jax.optics import Lens
from data_pipeline.layered.bodies import Body, LensModel, combinations
from data_pipeline.source import CameraExif

# As cameras name them: the nearest to 2^(k/6).
THIRD_STOPS = tuple(
    float(number)
    for number in [
        "1.0",
        "1.1",
        "1.2",
        "1.4",
        "1.6",
        "1.8",
        "2.0",
        "2.2",
        "2.5",
        "2.8",
        "3.2",
        "3.5",
        "4.0",
        "4.5",
        "5.0",
        "5.6",
        "6.3",
        "7.1",
        "8.0",
        "9.0",
        "10",
        "11",
        "13",
        "14",
        "16",
        "18",
        "20",
        "22",
    ]
)
# What photographers use when depth of field is not the aim, and when it is.
LEAST_DEEP = 16.0
MOST_USUAL = 11.0
# Of the stops that fit, the one at the share u^WIDE_OPEN is taken, u uniform: above 1, wide ones
# are taken more often.
WIDE_OPEN = 2.0
# How wide a field a photograph of a subject shows, and how near other things come to the camera,
# as a share of the subject's distance.
FIELD_M = (0.12, 1.6)
NEAREST = 0.3
# A scene fills this share, at least, of the depth that the limits leave.
LEAST_DEPTH = 0.6
FULL_FRAME_WIDTH_MM = 36.0
# Cameras that are tried where a photograph must have some blur.
MOST_TRIED = 200


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shot:
    """One photograph's camera and place.

    Attributes:
        body, lens: what it is taken with.
        focal_length_mm, f_number: of the lens.
        frame_width_mm: of the sensor, seen in the frame.
        focus_distance_m: of the subject.
        disparity_range_per_m: metric disparities of relative 0 and 1.
        relative: focus and blur of relative disparity.
    """

    body: Body
    lens: LensModel
    focal_length_mm: float
    f_number: float
    frame_width_mm: float
    focus_distance_m: float
    disparity_range_per_m: tuple[float, float]
    relative: Lens

    @property
    def exif(self) -> CameraExif:
        """What the camera writes; it says nothing of the focus."""
        return CameraExif(
            focal_length_mm=self.focal_length_mm,
            focal_length_35mm_mm=self.focal_length_mm * FULL_FRAME_WIDTH_MM / self.frame_width_mm,
            f_number=self.f_number,
        )


class _Held(NamedTuple):
    """A lens at a focal length before a subject; lengths in metres."""

    focal_m: float
    frame_m: float
    distance_m: float

    def blur_px(self, width_px: int) -> float:
        """K₁, radius in pixels per 1/m at f/1."""
        lens = Lens.from_camera(
            focal_length_m=self.focal_m,
            f_number=1.0,
            focus_distance_m=self.distance_m,
            sensor_width_m=self.frame_m,
            width_px=width_px,
        )
        return float(lens.blur_px)


def draw_shot(
    rng: np.random.Generator,
    frame: tuple[int, int],
    subject: float,
    reach: float,
    *,
    max_radius_px: float,
    deep: bool,
    least_radius_px: float = 0.0,
) -> Shot:
    """Draw a camera and place the scene before it.

    Args:
        rng: all of the randomness.
        frame: (height, width), pixels.
        subject: relative disparity δ of what is focused on, above 0, below 1.
        reach: the largest |d − δ| of the scene.
        max_radius_px: the most that anything is blurred.
        deep: depth of field is the aim: f/16 or narrower.
        least_radius_px: the largest radius of the blur is at least this, unless depth of field is
            the aim; of `MOST_TRIED` cameras that cannot, the one that comes nearest is taken.
    """
    best = _draw_one(rng, frame, subject, reach, max_radius_px=max_radius_px, deep=deep)
    for _ in range(0 if deep else MOST_TRIED):
        if float(best.relative.blur_px) * reach >= least_radius_px:
            break
        shot = _draw_one(rng, frame, subject, reach, max_radius_px=max_radius_px, deep=deep)
        best = max(best, shot, key=lambda shot: float(shot.relative.blur_px))
    return best


def _draw_one(
    rng: np.random.Generator,
    frame: tuple[int, int],
    subject: float,
    reach: float,
    *,
    max_radius_px: float,
    deep: bool,
) -> Shot:
    """Draw the first camera; arguments as `draw_shot`."""
    body, lens = _kit(rng, deep)
    focal_mm = _round(math.exp(rng.uniform(*np.log(lens.focal_lengths_mm))), lens)
    frame_mm = frame_width_mm(body, frame)
    held = _Held(focal_mm / 1e3, frame_mm / 1e3, _distance(rng, lens, focal_mm, frame_mm))
    depth = min(
        1 / (held.distance_m * subject),
        (1 / NEAREST - 1) / held.distance_m / (1 - subject),
    ) * rng.uniform(LEAST_DEPTH, 1.0)
    stops = [n for n in f_numbers(lens, focal_mm) if not deep or n >= LEAST_DEEP]
    blur_px = held.blur_px(frame[1])
    # The largest radius of a scene one unit deep, at f/1.
    radius_px = blur_px * reach
    depth = min(depth, max_radius_px * stops[-1] / radius_px)
    # The narrowest fits by now, but for rounding.
    fitting = [n for n in stops if radius_px * depth / n <= max_radius_px] or stops[-1:]
    usual = [n for n in fitting if n <= MOST_USUAL] or fitting[:1]
    choice = fitting if deep else usual
    f_number = choice[int(len(choice) * rng.random() ** WIDE_OPEN)]
    low = max(0.0, 1 / held.distance_m - depth * subject)
    return Shot(
        body=body,
        lens=lens,
        focal_length_mm=focal_mm,
        f_number=f_number,
        frame_width_mm=frame_mm,
        focus_distance_m=held.distance_m,
        disparity_range_per_m=(low, low + depth),
        relative=Lens(subject, blur_px / f_number * depth),
    )


def frame_width_mm(body: Body, frame: tuple[int, int]) -> float:
    """Width of the part of the sensor that a frame (height, width) shows."""
    wide, narrow = max(body.sensor_mm), min(body.sensor_mm)
    height_px, width_px = frame
    across, down = (wide, narrow) if width_px >= height_px else (narrow, wide)
    return min(across, down * width_px / height_px)


def f_numbers(lens: LensModel, focal_length_mm: float) -> tuple[float, ...]:
    """The f-numbers that a lens can be set to, widest first."""
    widest = lens.widest_f_number(focal_length_mm)
    if lens.narrowest_f_number <= widest:
        return (widest,)
    # A zoom's widest aperture is named as at one of its ends, or by the nearest third stop.
    names = (*lens.widest_f_numbers, *THIRD_STOPS)
    named = min(names, key=lambda n: abs(math.log(n / widest)))
    narrower = [n for n in THIRD_STOPS if named < n <= lens.narrowest_f_number]
    return (named, *narrower)


def _kit(rng: np.random.Generator, deep: bool) -> tuple[Body, LensModel]:
    """Draw a body, then one of its lenses, that can be stopped down where depth is the aim."""
    kits = [kit for kit in combinations() if not deep or kit[1].narrowest_f_number >= LEAST_DEEP]
    bodies = list(dict.fromkeys(body for body, _ in kits))
    body = bodies[rng.integers(len(bodies))]
    lenses = [lens for of, lens in kits if of is body]
    return body, lenses[rng.integers(len(lenses))]


def _round(focal_mm: float, lens: LensModel) -> float:
    """To what EXIF states of zooms: whole millimetres, tenths below ten."""
    if lens.focal_lengths_mm[0] == lens.focal_lengths_mm[1]:
        return lens.focal_lengths_mm[0]
    rounded = round(focal_mm, 1 if focal_mm < 10 else 0)
    return min(max(rounded, lens.focal_lengths_mm[0]), lens.focal_lengths_mm[1])


def _distance(rng: np.random.Generator, lens: LensModel, focal_mm: float, frame_mm: float) -> float:
    """Draw the subject's distance, metres."""
    near, far = (focal_mm / 1e3 * (1 + 1e3 * field / frame_mm) for field in FIELD_M)
    near = max(near, lens.closest_focus_m)
    return math.exp(rng.uniform(math.log(near), math.log(max(far, 1.5 * near))))
