"""Outlines of the things that stand in a layered scene.

A silhouette is drawn as a binary mask `OVERSAMPLING` times finer than the stored frame and averaged
down, so alpha is the covered fraction of each pixel to within 1/OVERSAMPLING². The shapes are those
on which defocus is hard: smooth outlines, corners, strands thinner than the blur, holes that show
what lies behind, and things that the frame's edge cuts off.
"""

import math
import string
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageChops, ImageDraw, ImageFont

OVERSAMPLING = 8

Mask = Image.Image


def draw_silhouette(rng: np.random.Generator, kind: str, size_px: int) -> UInt8[np.ndarray, "h w"]:
    """Draw one silhouette.

    Args:
        rng: draws the shape, its place and its size.
        kind: a key of `SILHOUETTES`.
        size_px: height and width, pixels.

    Returns:
        Alpha, uint8 [size_px, size_px].
    """
    mask = SILHOUETTES[kind](rng, size_px * OVERSAMPLING)
    return np.asarray(mask.reduce(OVERSAMPLING))


def disc(size_px: int, radius_fraction: float) -> UInt8[np.ndarray, "h w"]:
    """Return a centred disc's alpha; `radius_fraction` is its radius over the frame's side."""
    side = size_px * OVERSAMPLING
    low, high = side * (0.5 - radius_fraction), side * (0.5 + radius_fraction)
    mask, draw = _canvas(side)
    # Pillow's boxes include their last pixel.
    draw.ellipse((low, low, high - 1, high - 1), fill=255)
    return np.asarray(mask.reduce(OVERSAMPLING))


def _canvas(side: int) -> tuple[Mask, ImageDraw.ImageDraw]:
    mask = Image.new("L", (side, side), 0)
    return mask, ImageDraw.Draw(mask)


def _as_mask(inside: Bool[np.ndarray, "n n"]) -> Mask:
    return Image.fromarray(inside.astype(np.uint8) * 255)


def _smooth_noise(rng: np.random.Generator, side: int, cells: int) -> Float[np.ndarray, "n n"]:
    """Return noise that varies over about 1/cells of the frame, standard deviation about 1."""
    coarse = Image.fromarray(rng.normal(size=(cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))


def _grid(side: int) -> tuple[Float[np.ndarray, "1 n"], Float[np.ndarray, "n 1"]]:
    line = (np.arange(side, dtype=np.float32) + 0.5) / side
    return line[None, :], line[:, None]


def _center(rng: np.random.Generator) -> tuple[float, float]:
    return rng.uniform(0.15, 0.85), rng.uniform(0.15, 0.85)


def _blob(rng: np.random.Generator, side: int) -> Mask:
    """Noise pulled down away from a centre, above the level that gives the drawn area."""
    x, y = _grid(side)
    center_x, center_y = _center(rng)
    distance = np.sqrt((x - center_x) ** 2 + (y - center_y) ** 2)
    field = _smooth_noise(rng, side, int(rng.integers(3, 8))) * 0.5 - 4 * distance
    return _as_mask(field > np.quantile(field[::4, ::4], 1 - rng.uniform(0.1, 0.4)))


def _edge(rng: np.random.Generator, side: int) -> Mask:
    """One side of a wavy line across the frame: a thing cut off by the frame."""
    x, y = _grid(side)
    angle = rng.uniform(0, 2 * math.pi)
    ramp = math.cos(angle) * x + math.sin(angle) * y
    waves = _smooth_noise(rng, side, int(rng.integers(3, 10))) * rng.uniform(0, 0.1)
    field = ramp + waves
    return _as_mask(field > np.quantile(field[::4, ::4], 1 - rng.uniform(0.15, 0.45)))


def _corners(
    center: tuple[float, float],
    radii: Float[np.ndarray, "k"],
    angles: Float[np.ndarray, "k"],
    side: int,
) -> list[tuple[float, float]]:
    return [
        (side * (center[0] + r * math.cos(t)), side * (center[1] + r * math.sin(t)))
        for r, t in zip(radii.tolist(), angles.tolist(), strict=True)
    ]


def _polygon(rng: np.random.Generator, side: int) -> Mask:
    count = int(rng.integers(3, 9))
    turns = (np.arange(count) + rng.uniform(-0.3, 0.3, count)) / count
    radii = rng.uniform(0.15, 0.45) * rng.uniform(0.6, 1.2, count)
    angles = 2 * math.pi * (turns + rng.random())
    mask, draw = _canvas(side)
    draw.polygon(_corners(_center(rng), radii, angles, side), fill=255)
    return mask


def _star(rng: np.random.Generator, side: int) -> Mask:
    points = int(rng.integers(4, 10))
    outer = rng.uniform(0.2, 0.48)
    radii = outer * np.tile([1.0, rng.uniform(0.3, 0.65)], points)
    angles = 2 * math.pi * (np.arange(2 * points) / (2 * points) + rng.random())
    mask, draw = _canvas(side)
    draw.polygon(_corners(_center(rng), radii, angles, side), fill=255)
    return mask


def _strands(rng: np.random.Generator, side: int) -> Mask:
    """Thin curves and bars across the frame, quadratic Bézier curves with round joints."""
    mask, draw = _canvas(side)
    along = np.linspace(0, 1, 33)[:, None]
    for _ in range(int(rng.integers(2, 8))):
        angle = rng.uniform(0, 2 * math.pi)
        start = np.array([math.cos(angle), math.sin(angle)]) * 0.8
        end = -start + rng.normal(0, 0.25, 2)
        middle = rng.normal(0, 0.25, 2) * rng.integers(0, 2)
        curve = (1 - along) ** 2 * start + 2 * along * (1 - along) * middle + along**2 * end
        points = side * (curve + 0.5)
        width = max(1, round(side * rng.uniform(0.015, 0.075)))
        draw.line([tuple(p) for p in points.tolist()], fill=255, width=width, joint="curve")
    return mask


def _ring(rng: np.random.Generator, side: int) -> Mask:
    """An ellipse with one to four round holes."""
    mask, draw = _canvas(side)
    center = np.array(_center(rng))
    axes = rng.uniform(0.2, 0.45, 2)
    draw.ellipse([*(side * (center - axes)), *(side * (center + axes))], fill=255)
    holes = int(rng.integers(1, 5))
    phase = rng.uniform(0, 2 * math.pi)
    for hole in range(holes):
        turn = phase + 2 * math.pi * hole / holes
        away = 0.0 if holes == 1 else 0.55
        middle = center + away * axes * np.array([math.cos(turn), math.sin(turn)])
        radius = axes * (0.65 if holes == 1 else 0.32) * rng.uniform(0.6, 1.1)
        draw.ellipse([*(side * (middle - radius)), *(side * (middle + radius))], fill=0)
    return mask


def _glyphs(rng: np.random.Generator, side: int) -> Mask:
    """One to five letters or digits, turned."""
    letters = string.ascii_letters + string.digits
    count = int(rng.integers(1, 6))
    word = "".join(letters[i] for i in rng.integers(0, len(letters), count))
    height = side * rng.uniform(0.7, 1.0) / (1 + 0.35 * (count - 1))
    mask, draw = _canvas(side)
    center = (side * rng.uniform(0.35, 0.65), side * rng.uniform(0.35, 0.65))
    font = ImageFont.load_default(size=max(1.0, height))
    # The stroke makes the letters bold: at 48 px the plain ones fall apart.
    draw.text(center, word, fill=255, font=font, anchor="mm", stroke_width=round(height * 0.03))
    return mask.rotate(rng.uniform(-60, 60), Image.Resampling.BILINEAR, center=center)


def _fence(rng: np.random.Generator, side: int) -> Mask:
    """Parallel slats, or a mesh of two families of them."""
    x, y = _grid(side)
    inside = np.zeros((side, side), bool)
    angle, slats = rng.uniform(0, math.pi), rng.uniform(2.5, 7)
    width = rng.uniform(0.15, 0.45)
    for turn in range(int(rng.integers(1, 3))):
        direction = angle + turn * math.pi / 2
        phase = slats * (math.cos(direction) * x + math.sin(direction) * y) + rng.random()
        inside |= np.mod(phase, 1) < (width if turn == 0 else width / 2)
    return _as_mask(inside)


def _cluster(rng: np.random.Generator, side: int) -> Mask:
    """Many small discs, as leaves or lights."""
    mask, draw = _canvas(side)
    center = np.array(_center(rng))
    spread = rng.uniform(0.12, 0.3)
    for _ in range(int(rng.integers(8, 30))):
        middle = center + rng.normal(0, spread, 2)
        radius = rng.uniform(0.02, 0.09) * np.array([1.0, rng.uniform(0.5, 1.0)])
        draw.ellipse([*(side * (middle - radius)), *(side * (middle + radius))], fill=255)
    return mask


def _framed(rng: np.random.Generator, side: int) -> Mask:
    """All but a window: the scene is seen through a hole."""
    return ImageChops.invert(_polygon(rng, side) if rng.random() < 0.5 else _blob(rng, side))


SILHOUETTES: Mapping[str, Callable[[np.random.Generator, int], Mask]] = {
    "blob": _blob,
    "cluster": _cluster,
    "edge": _edge,
    "fence": _fence,
    "framed": _framed,
    "glyphs": _glyphs,
    "polygon": _polygon,
    "ring": _ring,
    "star": _star,
    "strands": _strands,
}
