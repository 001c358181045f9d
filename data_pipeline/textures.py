"""The photographs that scenes are cut from: those that scikit-image and scikit-learn ship.

They lie inside the installed packages, so nothing is downloaded. The split is fixed and by
photograph: what is held out never enters a training scene, so a score on `eval_heldout` measures
new content and not new arrangements of old content. The stereo motorcycle stays out of both lists:
it comes with measured disparity and is kept for demonstrations on a real photograph.

A crop is a rotated, scaled and flipped square of a photograph,

    source(u, v) = centre + (c / S) · R(θ) · F · ((u, v) − S/2),      u, v in [0, S],

with c the crop's side in the photograph's pixels, S the stored side and F a flip. It is sampled
with bicubic weights no coarser than the photograph's own grid and then averaged over squares, so
that a stored pixel is the mean of what it covers: shrinking by plain sampling would alias.
"""

import dataclasses
import hashlib
import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path

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


@dataclasses.dataclass(frozen=True, eq=False)
class Textures:
    """Photographs by name, uint8 [h, w, 3], and a digest of their content.

    Attributes:
        train: photographs that training and `eval_seen` scenes use.
        held_out: photographs that only `eval_heldout` scenes use.
        digest: SHA-256 over names and pixels.
    """

    train: Mapping[str, UInt8[np.ndarray, "_ _ 3"]]
    held_out: Mapping[str, UInt8[np.ndarray, "_ _ 3"]]
    digest: str

    def of_split(self, split: str) -> Mapping[str, UInt8[np.ndarray, "_ _ 3"]]:
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
    return Textures(train, held_out, digest.hexdigest())


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
        image = file.convert("RGB")
    shrink = MAX_SIDE_PX / max(image.size)
    if shrink < 1:
        size = (round(image.width * shrink), round(image.height * shrink))
        image = image.resize(size, Image.Resampling.LANCZOS)
    return np.asarray(image)


def crop_texture(
    rng: np.random.Generator, photograph: UInt8[np.ndarray, "_ _ 3"], size_px: int
) -> UInt8[np.ndarray, "h w 3"]:
    """Cut a random, detailed square out of a photograph and vary its colours.

    Args:
        rng: draws centre, side, angle, flip and colours.
        photograph: uint8 [_, _, 3].
        size_px: side of the result, pixels.

    Returns:
        uint8 [size_px, size_px, 3], sRGB-encoded.
    """
    best, best_detail = None, -1.0
    for _ in range(NUM_TRIES):
        crop = _random_crop(rng, photograph, size_px)
        detail = detail_of(crop)
        if detail > best_detail:
            best, best_detail = crop, detail
        if detail >= MIN_DETAIL:
            break
    assert best is not None
    return _vary_colors(rng, best, _is_grey(photograph))


def detail_of(crop: UInt8[np.ndarray, "h w 3"]) -> float:
    """Return the mean absolute luminance difference between neighbouring pixels, in [0, 1]."""
    luminance = crop.mean(axis=-1) / 255
    right, down = np.diff(luminance, axis=1), np.diff(luminance, axis=0)
    return float(np.abs(right).mean() + np.abs(down).mean()) / 2


def _random_crop(
    rng: np.random.Generator, photograph: UInt8[np.ndarray, "_ _ 3"], size_px: int
) -> UInt8[np.ndarray, "h w 3"]:
    height_px, width_px = photograph.shape[:2]
    angle = rng.uniform(0, 2 * math.pi)
    # Half the side of the square that holds the rotated crop, as a fraction of the crop's side.
    half_extent = (abs(math.cos(angle)) + abs(math.sin(angle))) / 2
    largest_px = min(height_px, width_px) / (2 * half_extent)
    low_px = min(max(72.0, 1.5 * size_px), largest_px)
    high_px = min(max(220.0, 3.0 * size_px), largest_px)
    side_px = math.exp(rng.uniform(math.log(low_px), math.log(high_px)))
    margin_px = half_extent * side_px
    center = (
        rng.uniform(margin_px, width_px - margin_px),
        rng.uniform(margin_px, height_px - margin_px),
    )
    flip = rng.choice([-1.0, 1.0])
    return _resample(photograph, center, side_px, angle, flip, size_px)


def _resample(
    photograph: UInt8[np.ndarray, "_ _ 3"],
    center: tuple[float, float],
    side_px: float,
    angle: float,
    flip: float,
    size_px: int,
) -> UInt8[np.ndarray, "h w 3"]:
    """Sample the rotated square at the photograph's own density, then average to `size_px`."""
    around, (left, top) = _surroundings(photograph, center, side_px, angle)
    center = (center[0] - left, center[1] - top)
    if side_px >= HALVE_FROM * size_px:
        # Averaging pairs first samples four times fewer pixels, and a stored pixel is a mean of
        # several of those pairs anyway.
        around = around.reduce(2)
        center, side_px = (center[0] / 2, center[1] / 2), side_px / 2
    oversampling = max(1, math.ceil(side_px / size_px))
    samples = size_px * oversampling
    step = side_px / samples
    cos, sin = step * math.cos(angle), step * math.sin(angle)
    a, b, d, e = flip * cos, -sin, flip * sin, cos
    # Pillow maps the output's pixel centres, (u + 1/2, v + 1/2), through this matrix.
    offset_x = center[0] - (a + b) * samples / 2
    offset_y = center[1] - (d + e) * samples / 2
    matrix = (a, b, offset_x, d, e, offset_y)
    warped = around.transform(
        (samples, samples), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC
    )
    return np.asarray(warped.reduce(oversampling) if oversampling > 1 else warped)


def _surroundings(
    photograph: UInt8[np.ndarray, "_ _ 3"],
    center: tuple[float, float],
    side_px: float,
    angle: float,
) -> tuple[Image.Image, tuple[int, int]]:
    """Cut out the upright square around a turned crop; return it and its corner (x, y)."""
    # Bicubic weights reach two pixels beyond the crop, in the halved image four.
    reach_px = side_px * (abs(math.cos(angle)) + abs(math.sin(angle))) / 2 + 4
    x, y = max(0, math.floor(center[0] - reach_px)), max(0, math.floor(center[1] - reach_px))
    right, bottom = math.ceil(center[0] + reach_px), math.ceil(center[1] + reach_px)
    return Image.fromarray(photograph[y:bottom, x:right]), (x, y)


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
