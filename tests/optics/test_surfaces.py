import jax.numpy as jnp
import numpy as np
import pytest

from bokeh_jax.optics.resample import halve, shrink
from bokeh_jax.optics.surfaces import Scene, coarsen


def scene(signed_px):
    """Random light on one surface a pixel, of the signed radii given."""
    random = np.random.default_rng(0)
    red, green, blue = (jnp.float32(random.random((1, 8, 12))) for _ in range(3))
    radius_px = jnp.broadcast_to(jnp.float32(signed_px), (1, 8, 12))
    light = (red, green, blue)
    return Scene(light, radius_px, radius_px, jnp.ones((1, 8, 12)), light)


@pytest.mark.parametrize("signed_px", [3.0, np.linspace(0, 2, 12)])
def test_light_of_one_surface_is_averaged_smoothly(signed_px):
    fine = scene(signed_px)
    coarse = coarsen(fine)
    for color, expected in zip(coarse.image, map(shrink, fine.image), strict=True):
        np.testing.assert_allclose(color, expected, atol=1e-6)


def test_no_light_crosses_a_silhouette():
    # A near surface in columns 0 to 5, a far one in the others.
    fine = scene(np.where(np.arange(12) < 6, 9.0, -9.0))
    coarse = coarsen(fine)
    for color, own in zip(coarse.image, fine.image, strict=True):
        beside = slice(2, 4)
        np.testing.assert_allclose(color[..., beside], halve(own)[..., beside], atol=1e-6)
        np.testing.assert_allclose(color[..., 0], shrink(own)[..., 0], atol=1e-6)


def test_a_block_on_a_silhouette_has_both_surfaces_and_their_own_light():
    fine = scene(np.where(np.arange(12) < 5, 9.0, -9.0))
    coarse = coarsen(fine)
    assert float(coarse.near[0, 1, 2]) == 9
    assert float(coarse.far[0, 1, 2]) == -9
    assert float(coarse.near_share[0, 1, 2]) == 0.5
    for light, own in zip(coarse.near_light, fine.image, strict=True):
        np.testing.assert_allclose(light[0, 1, 2], own[0, 2:4, 4].sum() / 4, rtol=1e-6)
