"""Outlines of the things that stand in a layered scene.

The shapes are those on which defocus is hard: smooth outlines, corners, strands thinner than the
blur, holes that show what lies behind, and things that the frame's edge cuts off. Each comes with
the words that a caption says of it. Lengths are in units of the canvas.
"""

import math
import string
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageChops, ImageDraw, ImageFont

from data_pipeline.layered.canvas import Canvas, Mask, as_mask
from data_pipeline.layered.hair import draw_hair

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


class Outline(NamedTuple):
    """What was drawn.

    Attributes:
        kind: a key of `SILHOUETTES`.
        alpha: the covered share of each pixel, 255 is all.
        words: with an article, such as "a ring".
    """

    kind: str
    alpha: UInt8[np.ndarray, "h w"]
    words: str


def draw_silhouette(rng: np.random.Generator, kind: str, canvas: Canvas) -> Outline:
    """Draw one silhouette; its shape, its place and its size are random.

    Args:
        rng: all of the randomness.
        kind: a key of `SILHOUETTES`, or "hair".
        canvas: of the frame.
    """
    mask, words = (draw_hair if kind == "hair" else SILHOUETTES[kind])(rng, canvas)
    return Outline(kind, canvas.alpha(mask), words)


def disc(canvas: Canvas, radius: float) -> Outline:
    """Draw a disc in the middle of the frame; `radius` in units of the canvas."""
    mask, draw = canvas.blank()
    center, reach = np.array(canvas.size) / 2, canvas.unit * radius
    # Pillow's boxes include their last pixel.
    draw.ellipse([*(center - reach), *(center + reach - 1)], fill=255)
    return Outline("disc", canvas.alpha(mask), "a disc")


def _a(count: int) -> str:
    return f"{'an' if count == 8 else 'a'} {NUMBERS[count]}"


def _ellipse(
    draw: ImageDraw.ImageDraw,
    canvas: Canvas,
    center: Float[np.ndarray, "2"],
    axes: Float[np.ndarray, "2"],
    fill: int = 255,
) -> None:
    low, high = canvas.unit * (center - axes), canvas.unit * (center + axes)
    draw.ellipse([*low, *high], fill=fill)


def _blob(rng: np.random.Generator, canvas: Canvas) -> tuple[Mask, str]:
    """Noise pulled down away from a centre, above the level that gives the drawn area."""
    x, y = canvas.grid()
    center_x, center_y = canvas.point(rng, 0.15)
    distance = np.sqrt((x - center_x) ** 2 + (y - center_y) ** 2)
    field = canvas.smooth_noise(rng, int(rng.integers(3, 8))) * 0.5 - 4 * distance
    level = np.quantile(field[::4, ::4], 1 - rng.uniform(0.1, 0.4))
    return as_mask(field > level), "a rounded piece"


def _edge(rng: np.random.Generator, canvas: Canvas) -> tuple[Mask, str]:
    """One side of a wavy line across the frame: a thing cut off by the frame."""
    x, y = canvas.grid()
    angle = rng.uniform(0, 2 * math.pi)
    ramp = math.cos(angle) * x + math.sin(angle) * y
    waves = canvas.smooth_noise(rng, int(rng.integers(3, 10))) * rng.uniform(0, 0.1)
    field = ramp + waves
    level = np.quantile(field[::4, ::4], 1 - rng.uniform(0.15, 0.45))
    return as_mask(field > level), "a wavy edge"


def _corners(
    canvas: Canvas,
    center: tuple[float, float],
    radii: Float[np.ndarray, "k"],
    angles: Float[np.ndarray, "k"],
) -> list[tuple[float, float]]:
    unit = canvas.unit
    return [
        (unit * (center[0] + r * math.cos(t)), unit * (center[1] + r * math.sin(t)))
        for r, t in zip(radii.tolist(), angles.tolist(), strict=True)
    ]


def _polygon(rng: np.random.Generator, canvas: Canvas) -> tuple[Mask, str]:
    count = int(rng.integers(3, 9))
    turns = (np.arange(count) + rng.uniform(-0.3, 0.3, count)) / count
    radii = rng.uniform(0.15, 0.45) * rng.uniform(0.6, 1.2, count)
    angles = 2 * math.pi * (turns + rng.random())
    mask, draw = canvas.blank()
    draw.polygon(_corners(canvas, canvas.point(rng, 0.15), radii, angles), fill=255)
    return mask, "a triangle" if count == 3 else f"{_a(count)}-cornered piece"


def _star(rng: np.random.Generator, canvas: Canvas) -> tuple[Mask, str]:
    points = int(rng.integers(4, 10))
    outer = rng.uniform(0.2, 0.48)
    radii = outer * np.tile([1.0, rng.uniform(0.3, 0.65)], points)
    angles = 2 * math.pi * (np.arange(2 * points) / (2 * points) + rng.random())
    mask, draw = canvas.blank()
    draw.polygon(_corners(canvas, canvas.point(rng, 0.15), radii, angles), fill=255)
    return mask, f"{_a(points)}-pointed star"


def _strands(rng: np.random.Generator, canvas: Canvas) -> tuple[Mask, str]:
    """Thin curves and bars across the frame, quadratic Bézier curves with round joints."""
    mask, draw = canvas.blank()
    along = np.linspace(0, 1, 33)[:, None]
    count = int(rng.integers(2, 8))
    for _ in range(count):
        angle = rng.uniform(0, 2 * math.pi)
        start = np.array([math.cos(angle), math.sin(angle)]) * 0.8
        end = -start + rng.normal(0, 0.25, 2)
        middle = rng.normal(0, 0.25, 2) * rng.integers(0, 2)
        curve = (1 - along) ** 2 * start + 2 * along * (1 - along) * middle + along**2 * end
        points = canvas.unit * (curve + np.array(canvas.extent) / 2)
        width = max(1, round(canvas.unit * rng.uniform(0.015, 0.075)))
        draw.line([tuple(p) for p in points.tolist()], fill=255, width=width, joint="curve")
    return mask, f"{NUMBERS[count]} strands"


def _ring(rng: np.random.Generator, canvas: Canvas) -> tuple[Mask, str]:
    """An ellipse with one to four round holes."""
    mask, draw = canvas.blank()
    center = np.array(canvas.point(rng, 0.15))
    axes = rng.uniform(0.2, 0.45, 2)
    _ellipse(draw, canvas, center, axes)
    holes = int(rng.integers(1, 5))
    phase = rng.uniform(0, 2 * math.pi)
    for hole in range(holes):
        turn = phase + 2 * math.pi * hole / holes
        away = 0.0 if holes == 1 else 0.55
        middle = center + away * axes * np.array([math.cos(turn), math.sin(turn)])
        radius = axes * (0.65 if holes == 1 else 0.32) * rng.uniform(0.6, 1.1)
        _ellipse(draw, canvas, middle, radius, fill=0)
    return mask, "a ring" if holes == 1 else f"a disc with {NUMBERS[holes]} holes"


def _glyphs(rng: np.random.Generator, canvas: Canvas) -> tuple[Mask, str]:
    """One to five letters or digits, turned."""
    letters = string.ascii_letters + string.digits
    count = int(rng.integers(1, 6))
    word = "".join(letters[i] for i in rng.integers(0, len(letters), count))
    height = min(canvas.size) * rng.uniform(0.7, 1.0) / (1 + 0.35 * (count - 1))
    mask, draw = canvas.blank()
    x, y = canvas.point(rng, 0.35)
    center = (canvas.unit * x, canvas.unit * y)
    font = ImageFont.load_default(size=max(1.0, height))
    # The stroke makes the letters bold: at 48 px the plain ones fall apart.
    draw.text(center, word, fill=255, font=font, anchor="mm", stroke_width=round(height * 0.03))
    mask = mask.rotate(rng.uniform(-60, 60), Image.Resampling.BILINEAR, center=center)
    return mask, f'the sign "{word}"' if count == 1 else f'the signs "{word}"'


def _fence(rng: np.random.Generator, canvas: Canvas) -> tuple[Mask, str]:
    """Parallel slats, or a mesh of two families of them."""
    x, y = canvas.grid()
    inside = np.zeros(canvas.size[::-1], bool)
    angle, slats = rng.uniform(0, math.pi), rng.uniform(2.5, 7)
    width = rng.uniform(0.15, 0.45)
    families = int(rng.integers(1, 3))
    for turn in range(families):
        direction = angle + turn * math.pi / 2
        phase = slats * (math.cos(direction) * x + math.sin(direction) * y) + rng.random()
        inside |= np.mod(phase, 1) < (width if turn == 0 else width / 2)
    return as_mask(inside), "a fence" if families == 1 else "a lattice"


def _cluster(rng: np.random.Generator, canvas: Canvas) -> tuple[Mask, str]:
    """Many small discs, as leaves."""
    mask, draw = canvas.blank()
    center = np.array(canvas.point(rng, 0.15))
    spread = rng.uniform(0.12, 0.3)
    for _ in range(int(rng.integers(8, 30))):
        middle = center + rng.normal(0, spread, 2)
        radius = rng.uniform(0.02, 0.09) * np.array([1.0, rng.uniform(0.5, 1.0)])
        _ellipse(draw, canvas, middle, radius)
    return mask, "a cluster of leaves"


def _framed(rng: np.random.Generator, canvas: Canvas) -> tuple[Mask, str]:
    """All but a window: the scene is seen through a hole."""
    hole, _ = _polygon(rng, canvas) if rng.random() < 0.5 else _blob(rng, canvas)
    return ImageChops.invert(hole), "a window frame"


SILHOUETTES: Mapping[str, Callable[[np.random.Generator, Canvas], tuple[Mask, str]]] = {
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
