"""A photograph of any size through the lens blur: sRGB in, sRGB out, large ones tile by tile."""

import dataclasses
import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bokeh_jax.optics import (
    Aperture,
    Disc,
    Lens,
    expand_highlights,
    focus_radius_px,
    linear_to_srgb,
    render_tiled,
    srgb_to_linear,
)


@dataclasses.dataclass(frozen=True)
class PhotoSettings:
    """All that shapes the blur beside focus and amount.

    Attributes:
        aperture: shape of the opening.
        highlight_gain: see `expand_highlights`; 1 leaves highlights as they are.
        highlight_threshold: linear light from which highlights are expanded.
        tilt, pivot, in_focus_range, only: see `focus_radius_px`.
    """

    aperture: Aperture = Disc()
    highlight_gain: float = 1.0
    highlight_threshold: float = 0.8
    tilt: tuple[float, float] = (0.0, 0.0)
    pivot: tuple[float, float] = (0.5, 0.5)
    in_focus_range: float = 0.0
    only: str = "both"


def signed_radius_px(
    disparity: Float[np.ndarray, "h w"], lens: Lens, settings: PhotoSettings
) -> Float[np.ndarray, "h w"]:
    """Signed blur radius of every pixel."""
    radius_px = focus_radius_px(
        jnp.asarray(disparity, jnp.float32),
        lens,
        tilt=settings.tilt,
        pivot=settings.pivot,
        in_focus_range=settings.in_focus_range,
        only=settings.only,
    )
    return np.asarray(radius_px)


def largest_radius_px(
    disparity: Float[np.ndarray, "h w"], lenses: Sequence[Lens], settings: PhotoSettings
) -> float:
    """The largest blur radius of several pictures, in whole pixels, so that one shape compiles."""
    radii_px = (np.abs(signed_radius_px(disparity, lens, settings)) for lens in lenses)
    return float(max(1, *(math.ceil(radius_px.max()) for radius_px in radii_px)))


def photograph(
    pixels: Float[np.ndarray, "h w 3"],
    disparity: Float[np.ndarray, "h w"],
    lens: Lens,
    settings: PhotoSettings,
    *,
    max_radius_px: float,
) -> Float[np.ndarray, "h w 3"]:
    """Puts an all-in-focus photograph through the lens blur at its own size.

    Args:
        pixels: sRGB-encoded, [0, 1].
        disparity: nearer is larger, in the lens's unit.
        lens: focus and amount, for this width.
        settings: all else.
        max_radius_px: radii beyond it are clamped to it; see `largest_radius_px`.

    Returns:
        sRGB-encoded, [0, 1].
    """
    light = srgb_to_linear(jnp.asarray(pixels, jnp.float32))
    if settings.highlight_gain != 1:
        light = expand_highlights(
            light, settings.highlight_gain, threshold=settings.highlight_threshold
        )
    rendered = render_tiled(
        np.asarray(light),
        signed_radius_px(disparity, lens, settings),
        aperture=settings.aperture,
        max_radius_px=max_radius_px,
    )
    return np.clip(np.asarray(linear_to_srgb(jnp.asarray(rendered))), 0.0, 1.0)
