"""Large photographs tile by tile: the same picture as in one piece."""

import jax.numpy as jnp
import numpy as np
import pytest

from bokeh_jax.optics import CatEye, Disc, Polygon, render_radius, render_tiled
from bokeh_jax.optics.tiles import _cut, window_overlap_px

HEIGHT, WIDTH = 208, 330


def scene():
    random = np.random.default_rng(0)
    image = random.random((HEIGHT // 2, WIDTH // 2, 3)).repeat(2, 0).repeat(2, 1)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    radius = 2.0 * np.sin(x / 31) * np.cos(y / 27)
    # Discs in front, over the seams of the tiles among other places.
    radius = np.where((x - 64) % 110 < 24, 3.0, radius)
    return np.float32(image), np.float32(radius)


@pytest.mark.parametrize(
    "aperture", [pytest.param(Polygon(5), marks=pytest.mark.long), CatEye(Disc(), 0.6)]
)
def test_tiles_are_the_whole(aperture):
    image, radius = scene()
    options = {"aperture": aperture, "max_radius_px": 3.0}
    whole = render_radius(jnp.asarray(image), jnp.asarray(radius), **options)
    tiled = render_tiled(image, radius, tile_px=64, **options)
    # What is invented behind the discs may differ a little; nothing else does.
    np.testing.assert_allclose(tiled, whole, atol=5e-4)
    assert np.mean(np.abs(tiled - np.asarray(whole)) > 1e-5) < 0.03


def test_a_small_photograph_is_one_window():
    image, radius = scene()
    image, radius = image[:60, :70], radius[:60, :70]
    whole = render_radius(jnp.asarray(image), jnp.asarray(radius), max_radius_px=3.0)
    tiled = render_tiled(image, radius, max_radius_px=3.0)
    np.testing.assert_allclose(tiled, whole, atol=1e-6)


@pytest.mark.parametrize("size", [1, 190, 192, 193, 330, 1000])
def test_tiles_cover_a_line_once_and_windows_reach_beyond_them(size):
    overlap = window_overlap_px(3.0)
    assert overlap >= 3 + 32
    tiles = _cut(size, 64, overlap)
    kept = [pixel for first, last, _ in tiles for pixel in range(first, last)]
    assert kept == list(range(size))
    assert len({window.stop - window.start for *_, window in tiles}) <= 2
    for first, last, window in tiles:
        assert 0 <= window.start <= max(0, first - overlap)
        assert window.start % 64 == 0
        assert size >= window.stop >= min(size, last + overlap)


def test_too_small_tiles_are_named():
    image, radius = scene()
    with pytest.raises(ValueError, match="tile_px must be at least 64, got 32"):
        render_tiled(image, radius, max_radius_px=2.0, tile_px=32)
