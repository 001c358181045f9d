"""Small lights, brighter than white: what out of focus becomes the discs of bokeh.

A pixel of a light says its hue; its linear light is the layer's gain times that. The gain is drawn
log-uniformly, since brightness is a matter of ratios.
"""

import math

import numpy as np

from data_pipeline.layered.canvas import Canvas
from data_pipeline.layered.parts import Part, to_uint8

GAINS = (4.0, 40.0)
# Radii in units of U, for frames in which that is more than the least, in stored pixels.
RADII = (0.003, 0.012)
MIN_RADIUS_PX = 0.4
NUM_LIGHTS = (6, 50)
# Linear light of lamps: warm white, cold white, amber, red, green, blue, magenta.
HUES = np.array(
    [
        [1.0, 0.80, 0.50],
        [0.85, 0.92, 1.0],
        [1.0, 0.55, 0.15],
        [1.0, 0.12, 0.08],
        [0.15, 1.0, 0.30],
        [0.15, 0.30, 1.0],
        [1.0, 0.20, 0.75],
    ]
)
# How often each occurs in a mixed crowd.
SHARES = np.array([0.4, 0.2, 0.15, 0.1, 0.05, 0.05, 0.05])


def draw_lights(rng: np.random.Generator, canvas: Canvas) -> Part:
    """Draw a layer of lights: scattered, in clumps or along a hanging string."""
    count = int(rng.integers(*NUM_LIGHTS, endpoint=True))
    arrangement = ("scattered", "clumps", "string")[rng.integers(3)]
    centers = _centers(rng, canvas, arrangement, count)
    low, high = np.log(RADII)
    radii = np.maximum(np.exp(rng.uniform(low, high, count)), MIN_RADIUS_PX / canvas.unit_px)
    if rng.random() < 0.5:
        hues = np.tile(HUES[rng.choice(len(HUES), p=SHARES)], (count, 1))
    else:
        hues = HUES[rng.choice(len(HUES), count, p=SHARES)]
    encoded = to_uint8((hues * rng.uniform(0.3, 1.0, (count, 1))) ** (1 / 2.2))
    mask, draw = canvas.blank()
    # Pixels that a light covers in part have its hue in full: opacity is straight.
    colors = np.zeros((canvas.height_px, canvas.width_px, 3), np.uint8)
    y, x = np.mgrid[: canvas.height_px, : canvas.width_px] + 0.5
    for center, radius, color in zip(centers, radii, encoded, strict=True):
        low, high = canvas.unit * (center - radius), canvas.unit * (center + radius)
        # Pillow's boxes include their last pixel.
        draw.ellipse([*low, *(high - 1)], fill=255)
        middle, reach = canvas.unit_px * center, canvas.unit_px * radius + 1.5
        colors[(x - middle[0]) ** 2 + (y - middle[1]) ** 2 < reach**2] = color
    return Part(
        role="lights",
        kind=f"lights_{arrangement}",
        alpha=canvas.alpha(mask),
        words="a string of small lights" if arrangement == "string" else "small lights",
        rgb=colors,
        gain=math.exp(rng.uniform(*np.log(GAINS))),
    )


def _centers(rng: np.random.Generator, canvas: Canvas, arrangement: str, count: int) -> np.ndarray:
    """Centres [count, 2] in units of U; some may lie outside the frame."""
    extent = np.array(canvas.extent)
    if arrangement == "scattered":
        return extent * rng.random((count, 2))
    if arrangement == "clumps":
        clumps = extent * rng.random((int(rng.integers(1, 5)), 2))
        return clumps[rng.integers(len(clumps), size=count)] + rng.normal(0, 0.08, (count, 2))
    # A string sags between two points on the left and the right.
    t = (np.arange(count) + 0.5) / count
    ends, sag = rng.uniform(0.05, 0.75, 2), rng.uniform(0.05, 0.3)
    heights = ends[0] + (ends[1] - ends[0]) * t + 4 * sag * t * (1 - t)
    return extent * np.stack([t, heights], axis=-1)
