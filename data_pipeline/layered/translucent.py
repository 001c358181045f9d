"""Layers of partial opacity: panes of glass, with or without a reflection, and smoke.

Light adds up through them as "over" says, once for each layer; a pane's own light is its tint or
what it reflects. No pixel is opaque.
"""

from collections.abc import Callable, Mapping

import numpy as np

from data_pipeline.layered.canvas import Canvas, smooth_noise
from data_pipeline.layered.parts import Part, to_uint8
from data_pipeline.layered.silhouettes import draw_silhouette
from data_pipeline.layered.textures import Photographs, crop_texture

# The most opacity of smoke, of 255, and between what that of panes lies, of 1.
MAX_ALPHA = 200
PANE_LEVELS = (0.15, 0.55)
# The outlines that panes have.
PANES = ("edge", "polygon", "ring")
# Noise of deviation one, this far from its mean, is neither clear nor thick.
NOISE_REACH = 1.5


def draw_smoke(
    rng: np.random.Generator,
    canvas: Canvas,
    photographs: Photographs,
) -> tuple[Part, str | None]:
    """Draw smooth grey smoke over the whole frame; it has no photograph."""
    density = _octaves(rng, canvas, int(rng.integers(2, 5)))
    # Thicker in some places: the square leaves much of the frame clear.
    alpha = (rng.uniform(0.5, 1.0) * density**2 * MAX_ALPHA).astype(np.uint8)
    tint = rng.uniform(0.55, 0.95) * rng.uniform(0.92, 1.0, 3)
    shade = 0.85 + 0.15 * _octaves(rng, canvas, 2)[..., None]
    part = Part(
        role="translucent", kind="smoke", alpha=alpha, words="smoke", rgb=to_uint8(tint * shade)
    )
    return part, None


def draw_glass(
    rng: np.random.Generator,
    canvas: Canvas,
    photographs: Photographs,
) -> tuple[Part, str | None]:
    """Draw a pane of glass; return it and the name of the photograph that it reflects, if any."""
    outline = draw_silhouette(rng, PANES[rng.integers(len(PANES))], canvas)
    frame = (canvas.height_px, canvas.width_px)
    level = rng.uniform(*PANE_LEVELS) * (0.8 + 0.2 * _octaves(rng, canvas, 2))
    reflected = None
    if rng.random() < 0.5:
        names = sorted(photographs)
        reflected = names[rng.integers(len(names))]
        rgb = crop_texture(rng, photographs[reflected], frame)
        words = "a reflecting pane of glass"
    else:
        tint = rng.uniform(0.35, 0.95, 3)
        rgb = to_uint8(tint * (0.8 + 0.2 * _octaves(rng, canvas, 2)[..., None]))
        words = "a tinted pane of glass"
    alpha = np.round(outline.alpha * level).astype(np.uint8)
    part = Part(role="translucent", kind=f"glass_{outline.kind}", alpha=alpha, words=words, rgb=rgb)
    return part, reflected


def _octaves(rng: np.random.Generator, canvas: Canvas, cells: int) -> np.ndarray:
    """Smooth noise [h, w] of the stored frame, in [0, 1]."""
    size = (canvas.width_px, canvas.height_px)
    field = sum(smooth_noise(rng, size, canvas.cells(cells * 2**k)) * 0.5**k for k in range(3))
    return np.clip(0.5 + field / (2 * NOISE_REACH), 0, 1)


TRANSLUCENT: Mapping[str, Callable[..., tuple[Part, str | None]]] = {
    "glass": draw_glass,
    "smoke": draw_smoke,
}
