"""Hair: strands thinner than a pixel that taper to nothing.

A strand leaves its root at r with the direction θ and bends under a side force, a parabola

    p(t) = r + L (t (cos θ, sin θ) + κ t² (−sin θ, cos θ)),      t in [0, 1],

of width w(t) = w₀ (1 − t) with w₀ below one stored pixel. It is filled as a polygon on the fine
canvas, so a stored pixel's alpha is the share of it that hairs cover. A mop grows outwards from a
body that hides its roots, a tuft from the frame's edge.
"""

import math

import numpy as np
from jaxtyping import Float

from data_pipeline.layered.canvas import Canvas, Mask

NUM_POINTS = 13
# Strands are so many for each pixel of U, and their widths at the root, in stored pixels.
STRANDS_PER_PX = (1.2, 4.0)
WIDTH_PX = (0.35, 0.95)


def draw_hair(rng: np.random.Generator, canvas: Canvas) -> tuple[Mask, str]:
    """Draw a mop or a tuft of hair; return its fine mask and words for it."""
    mask, draw = canvas.blank()
    count = round(canvas.unit_px * rng.uniform(*STRANDS_PER_PX))
    if rng.random() < 0.5:
        roots, directions, body = _mop(rng, canvas, count)
        draw.polygon([tuple(p) for p in (canvas.unit * body).tolist()], fill=255)
        words = "a mop of hair"
    else:
        roots, directions = _tuft(rng, canvas, count)
        words = "a tuft of hair"
    lengths = rng.uniform(0.5, 1.0, count) * rng.uniform(0.2, 0.55)
    # Neighbouring hairs bend alike, with some that stray.
    bends = rng.normal(0, 0.35) + rng.normal(0, 0.15, count)
    widths = canvas.oversampling * rng.uniform(*WIDTH_PX, count)
    outlines = _outlines(canvas.unit * roots, directions, canvas.unit * lengths, bends, widths)
    for outline in outlines.tolist():
        draw.polygon([tuple(point) for point in outline], fill=255)
    return mask, words


def _mop(
    rng: np.random.Generator, canvas: Canvas, count: int
) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, " n"], Float[np.ndarray, "k 2"]]:
    """Roots on an ellipse with directions outwards, and the ellipse's outline, in units of U."""
    center, axes = np.array(canvas.point(rng, 0.25)), rng.uniform(0.06, 0.2, 2)
    angles = rng.uniform(0, 2 * math.pi, count)
    around = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    body = center + axes * np.stack([np.cos(around), np.sin(around)], axis=-1)
    # A little inside, so that no root shows.
    roots = center + 0.97 * axes * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    return roots, angles + rng.normal(0, 0.2, count), body


def _tuft(
    rng: np.random.Generator, canvas: Canvas, count: int
) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, " n"]]:
    """Roots along one side of the frame, with directions into it, in units of U."""
    side, (width, height) = int(rng.integers(4)), canvas.extent
    middle, spread = rng.uniform(0.2, 0.8), rng.uniform(0.06, 0.2)
    along = middle + rng.normal(0, spread, count)
    edge = np.full(count, -0.01)
    roots = {
        0: (along * width, edge),
        1: (width - edge, along * height),
        2: (along * width, height - edge),
        3: (edge, along * height),
    }[side]
    inwards = math.pi / 2 * (side + 1)
    return np.stack(roots, axis=-1), inwards + rng.normal(0, 0.35, count)


def _outlines(
    roots: Float[np.ndarray, "n 2"],
    directions: Float[np.ndarray, " n"],
    lengths: Float[np.ndarray, " n"],
    bends: Float[np.ndarray, " n"],
    widths: Float[np.ndarray, " n"],
) -> Float[np.ndarray, "n k 2"]:
    """Outline every strand, up one of its sides and down the other, in fine pixels."""
    t = np.linspace(0, 1, NUM_POINTS)[None, :, None]
    forward = np.stack([np.cos(directions), np.sin(directions)], axis=-1)[:, None]
    sideways = np.stack([-np.sin(directions), np.cos(directions)], axis=-1)[:, None]
    bend = bends[:, None, None]
    middle = roots[:, None] + lengths[:, None, None] * (t * forward + bend * t**2 * sideways)
    tangent = forward + 2 * bend * t * sideways
    tangent /= np.linalg.norm(tangent, axis=-1, keepdims=True)
    normal = np.stack([-tangent[..., 1], tangent[..., 0]], axis=-1)
    half = widths[:, None, None] / 2 * (1 - t) * normal
    return np.concatenate([middle + half, (middle - half)[:, ::-1]], axis=1)
