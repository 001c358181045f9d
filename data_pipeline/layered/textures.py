"""The photographs that scenes are cut from, and crops of them.

Those that scikit-image and scikit-learn ship are the default. They lie inside the installed
packages, so nothing is downloaded. The split is fixed and by photograph: what is held out never
enters a training scene, so a score on `eval_heldout` measures new content and not new arrangements
of old content. The stereo motorcycle stays out of both lists: it comes with measured disparity and
is kept for demonstrations on a real photograph.

A crop is a rotated, scaled and flipped rectangle of a photograph,

    source(u, v) = centre + (c / U) · R(θ) · F · ((u, v) − (w, h)/2),   u in [0, w], v in [0, h],

with U = sqrt(h w), c what U is in the photograph's pixels, and F a flip. It is sampled
with bicubic weights no coarser than the photograph's own grid and then averaged over squares, so
that a stored pixel is the mean of what it covers: shrinking by plain sampling would alias.
"""

import dataclasses
import hashlib
import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from bokeh_jax.errors import InvalidInput

SKIMAGE_FOLDER = "skimage/data"
SKLEARN_FOLDER = "sklearn/datasets/images"

TRAIN_FILES = {
    "astronaut": f"{SKIMAGE_FOLDER}/astronaut.png",
    "brick": f"{SKIMAGE_FOLDER}/brick.png",
    "camera": f"{SKIMAGE_FOLDER}/camera.png",
    "chelsea": f"{SKIMAGE_FOLDER}/chelsea.png",
    "coins": f"{SKIMAGE_FOLDER}/coins.png",
    "grass": f"{SKIMAGE_FOLDER}/grass.png",
    "hubble_deep_field": f"{SKIMAGE_FOLDER}/hubble_deep_field.jpg",
    "ihc": f"{SKIMAGE_FOLDER}/ihc.png",
    "page": f"{SKIMAGE_FOLDER}/page.png",
    "rocket": f"{SKIMAGE_FOLDER}/rocket.jpg",
    "text": f"{SKIMAGE_FOLDER}/text.png",
}
HELD_OUT_FILES = {
    "china": f"{SKLEARN_FOLDER}/china.jpg",
    "coffee": f"{SKIMAGE_FOLDER}/coffee.png",
    "flower": f"{SKLEARN_FOLDER}/flower.jpg",
    "gravel": f"{SKIMAGE_FOLDER}/gravel.png",
}

# The largest photographs hold little detail a pixel; shrunk to this side a crop of them is as busy
# as one of the others.
MAX_SIDE_PX = 640
# Mean luminance difference between neighbouring pixels (luminance in [0, 1]) from which a crop
# counts as detailed, and how many crops are tried to find one. The mean, not its square: one hard
# edge across a plain crop should not pass.
MIN_DETAIL = 0.035
NUM_TRIES = 6
# Crops this many times as wide as the stored frame are taken from the halved photograph.
HALVE_FROM = 2.5
# Frames this many times larger than the probe are looked at in the probe's size first.
PROBE_PX = 64
PROBE_BELOW = 1 / 2

# What captions call the photographs.
WORDS = {
    "astronaut": "an astronaut's portrait",
    "brick": "brick",
    "camera": "a photograph of a cameraman",
    "chelsea": "cat fur",
    "coins": "ancient coins",
    "grass": "grass",
    "hubble_deep_field": "distant galaxies",
    "ihc": "stained tissue",
    "page": "printed text",
    "rocket": "a rocket on its launch pad",
    "text": "handwriting",
    "china": "a Chinese palace",
    "coffee": "a cup of coffee",
    "flower": "a flower",
    "gravel": "gravel",
}

# Photographs by name, uint8 [h, w, 3]. To check their type would read a folder's files.
Photographs = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Textures:
    """Photographs by name, uint8 [h, w, 3], and a digest of their content.

    A mapping may read a photograph each time it is asked for it.

    Attributes:
        train: photographs that training and `eval_seen` scenes use.
        held_out: photographs that only `eval_heldout` scenes use.
        digest: SHA-256 over names and pixels, or over names and files.
        words: what captions call a photograph; its name where this says nothing.
    """

    train: Photographs
    held_out: Photographs
    digest: str
    words: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def of_split(self, split: str) -> Photographs:
        """Return the photographs that scenes of `split` are cut from."""
        return self.held_out if split == "eval_heldout" else self.train


def load_textures() -> Textures:
    """Load every photograph of both lists from the installed packages.

    Raises:
        InvalidInput: a package or a photograph is not installed.
    """
    train = {name: _load(name, path) for name, path in TRAIN_FILES.items()}
    held_out = {name: _load(name, path) for name, path in HELD_OUT_FILES.items()}
    digest = hashlib.sha256()
    for group in (train, held_out):
        for name, photograph in sorted(group.items()):
            digest.update(f"{name} {photograph.shape}".encode())
            digest.update(photograph.tobytes())
    return Textures(train, held_out, digest.hexdigest(), WORDS)


def _load(name: str, relative_path: str) -> UInt8[np.ndarray, "_ _ 3"]:
    """Read one photograph as RGB, no side longer than MAX_SIDE_PX."""
    package, inside = relative_path.split("/", 1)
    spec = importlib.util.find_spec(package)
    path = Path((spec.submodule_search_locations or [""])[0]) / inside if spec else Path(inside)
    if not path.is_file():
        raise InvalidInput(
            f"texture {name!r} is not installed ({relative_path}); "
            "allowed: an environment with the extra 'textures' (pip install 'bokeh-jax[textures]')"
        )
    with Image.open(path) as file:
        return shrunk(file.convert("RGB"), MAX_SIDE_PX)


def shrunk(image: Image.Image, max_side_px: int) -> UInt8[np.ndarray, "_ _ 3"]:
    """Return an RGB image's pixels, shrunk where a side is longer than `max_side_px`."""
    shrink = max_side_px / max(image.size)
    if shrink < 1:
        size = (max(1, round(image.width * shrink)), max(1, round(image.height * shrink)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    return np.asarray(image)


def crop_texture(
    rng: np.random.Generator,
    photograph: UInt8[np.ndarray, "_ _ 3"],
    frame: tuple[int, int],
    *,
    vary: bool = True,
) -> UInt8[np.ndarray, "h w 3"]:
    """Cut a random, detailed rectangle out of a photograph and vary its colours.

    Args:
        rng: draws centre, side, angle, flip and colours.
        photograph: uint8 [_, _, 3].
        frame: (height, width) of the result, pixels.
        vary: vary the colours.

    Returns:
        uint8 [height, width, 3], sRGB-encoded.
    """
    height_px, width_px = frame
    shrink = PROBE_PX / math.sqrt(height_px * width_px)
    # Large frames are probed small: to sample all tries in full would take most of the time.
    probe = frame
    if shrink < PROBE_BELOW:
        probe = (max(2, round(height_px * shrink)), max(2, round(width_px * shrink)))
    best, best_detail = None, -1.0
    for _ in range(NUM_TRIES):
        crop = _random_crop(rng, photograph, frame)
        pixels = _resample(photograph, crop, probe)
        detail = detail_of(pixels)
        if detail > best_detail:
            best, best_detail = (crop, pixels), detail
        if detail >= MIN_DETAIL:
            break
    assert best is not None
    pixels = best[1] if probe == frame else _resample(photograph, best[0], frame)
    return _vary_colors(rng, pixels, _is_grey(photograph)) if vary else pixels


def detail_of(crop: UInt8[np.ndarray, "h w 3"]) -> float:
    """Return the mean absolute luminance difference between neighbouring pixels, in [0, 1]."""
    luminance = crop.mean(axis=-1) / 255
    right, down = np.diff(luminance, axis=1), np.diff(luminance, axis=0)
    return float(np.abs(right).mean() + np.abs(down).mean()) / 2


class _Crop(NamedTuple):
    """Where a rectangle lies in a photograph: `side_px` is the root of its area."""

    center: tuple[float, float]
    side_px: float
    angle: float
    flip: float


def _random_crop(
    rng: np.random.Generator, photograph: UInt8[np.ndarray, "_ _ 3"], frame: tuple[int, int]
) -> _Crop:
    height_px, width_px = photograph.shape[:2]
    unit_px = math.sqrt(frame[0] * frame[1])
    across, down = frame[1] / unit_px, frame[0] / unit_px
    angle = rng.uniform(0, 2 * math.pi)
    cos, sin = abs(math.cos(angle)), abs(math.sin(angle))
    # Half the sides of the box that holds the rotated crop, as fractions of the crop's side.
    half_x, half_y = (across * cos + down * sin) / 2, (across * sin + down * cos) / 2
    largest_px = min(height_px / (2 * half_y), width_px / (2 * half_x))
    low_px = min(max(72.0, 1.5 * unit_px), largest_px)
    high_px = min(max(220.0, 3.0 * unit_px), largest_px)
    side_px = math.exp(rng.uniform(math.log(low_px), math.log(high_px)))
    # Rounding may make the largest crop larger than the photograph.
    margin_x = min(half_x * side_px, width_px / 2)
    margin_y = min(half_y * side_px, height_px / 2)
    center = (
        rng.uniform(margin_x, width_px - margin_x),
        rng.uniform(margin_y, height_px - margin_y),
    )
    return _Crop(center, side_px, angle, rng.choice([-1.0, 1.0]))


def _resample(
    photograph: UInt8[np.ndarray, "_ _ 3"], crop: _Crop, frame: tuple[int, int]
) -> UInt8[np.ndarray, "h w 3"]:
    """Sample the rotated rectangle at the photograph's own density, then average to `frame`."""
    unit_px = math.sqrt(frame[0] * frame[1])
    around, (left, top) = _surroundings(photograph, crop, frame)
    center, side_px = (crop.center[0] - left, crop.center[1] - top), crop.side_px
    if side_px >= HALVE_FROM * unit_px:
        # Averaging pairs first samples four times fewer pixels, and a stored pixel is a mean of
        # several of those pairs anyway.
        around = around.reduce(2)
        center, side_px = (center[0] / 2, center[1] / 2), side_px / 2
    oversampling = max(1, math.ceil(side_px / unit_px))
    samples = (frame[1] * oversampling, frame[0] * oversampling)
    step = side_px / (unit_px * oversampling)
    cos, sin = step * math.cos(crop.angle), step * math.sin(crop.angle)
    a, b, d, e = crop.flip * cos, -sin, crop.flip * sin, cos
    # Pillow maps the output's pixel centres, (u + 1/2, v + 1/2), through this matrix.
    offset_x = center[0] - (a * samples[0] + b * samples[1]) / 2
    offset_y = center[1] - (d * samples[0] + e * samples[1]) / 2
    matrix = (a, b, offset_x, d, e, offset_y)
    warped = around.transform(samples, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    return np.asarray(warped.reduce(oversampling) if oversampling > 1 else warped)


def _surroundings(
    photograph: UInt8[np.ndarray, "_ _ 3"], crop: _Crop, frame: tuple[int, int]
) -> tuple[Image.Image, tuple[int, int]]:
    """Cut out the upright box around a turned crop; return it and its corner (x, y)."""
    pixel_px = crop.side_px / math.sqrt(frame[0] * frame[1])
    cos, sin = abs(math.cos(crop.angle)), abs(math.sin(crop.angle))
    # Bicubic weights reach two pixels beyond the crop, in the halved image four.
    reach_x = pixel_px * (frame[1] * cos + frame[0] * sin) / 2 + 4
    reach_y = pixel_px * (frame[1] * sin + frame[0] * cos) / 2 + 4
    x, y = crop.center
    left, top = max(0, math.floor(x - reach_x)), max(0, math.floor(y - reach_y))
    right, bottom = math.ceil(x + reach_x), math.ceil(y + reach_y)
    return Image.fromarray(photograph[top:bottom, left:right]), (left, top)


def _is_grey(photograph: UInt8[np.ndarray, "_ _ 3"]) -> bool:
    return bool(np.ptp(photograph[::8, ::8].astype(np.int16), axis=-1).max() == 0)


def _vary_colors(
    rng: np.random.Generator, crop: UInt8[np.ndarray, "h w 3"], grey: bool
) -> UInt8[np.ndarray, "h w 3"]:
    """Tint a grey crop between two colours, exchange a coloured one's channels; vary the tone."""
    value = crop / 255
    if grey:
        dark, light = rng.uniform(0, 0.35, 3), rng.uniform(0.55, 1, 3)
        value = dark + (light - dark) * value
    elif rng.random() < 0.3:
        value = value[..., rng.permutation(3)]
    value = value ** rng.uniform(0.7, 1.4)
    value = value * rng.uniform(0.75, 1.15) + rng.uniform(-0.05, 0.05)
    value = value * rng.uniform(0.85, 1.15, 3)
    return _to_uint8(value)


def _to_uint8(value: Float[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    return np.round(255 * np.clip(value, 0, 1)).astype(np.uint8)
