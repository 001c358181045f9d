"""Cat eyes: kernels that change over the frame."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mixed_kernel import zone_kernels

from bokeh_jax.optics import (
    CatEye,
    Disc,
    Lens,
    Polygon,
    render_layers,
    render_radius,
)
from bokeh_jax.optics.layer_kernels import interpolating_kernel
from bokeh_jax.optics.zones import node_positions, zone_hats

render = jax.jit(render_radius, static_argnames=("aperture", "max_radius_px"))


@pytest.mark.parametrize("count", [2, 3, 5])
def test_hats_share_every_pixel_out_and_stand_at_their_nodes(count):
    rows, columns = zone_hats(CatEye(Disc(), 0.5, count), (11, 18))
    weights = rows[:, :, None] * columns[:, None, :]
    np.testing.assert_allclose(weights.sum(axis=0), 1, atol=1e-12)
    assert weights.min() >= 0
    # The mean position of the weights is the pixel's own.
    nodes = node_positions(count, (11, 18)) * math.hypot(11, 18)
    y, x = np.mgrid[:11, :18] + 0.5
    np.testing.assert_allclose(np.tensordot(nodes[:, 0], weights, 1), 2 * x - 18, atol=1e-9)
    np.testing.assert_allclose(np.tensordot(nodes[:, 1], weights, 1), 2 * y - 11, atol=1e-9)
    assert np.hypot(*node_positions(count, (11, 18)).T).max() == pytest.approx(1)


def test_an_opening_that_does_not_change_has_one_zone():
    kernels = zone_kernels(Polygon(5), np.array([-2.0, 1.5]), 3, (8, 9))
    assert kernels.shape == (2, 1, 7, 7)
    np.testing.assert_array_equal(kernels[1, 0], interpolating_kernel(Polygon(5), 1.5, 3))
    rows, columns = zone_hats(Polygon(5), (8, 9))
    np.testing.assert_array_equal(rows, np.ones((1, 8)))
    np.testing.assert_array_equal(columns, np.ones((1, 9)))


def test_kernels_are_cut_on_the_side_away_from_the_middle():
    kernels = zone_kernels(CatEye(Polygon(6), 0.7), np.array([-4.0, 4.0]), 5, (30, 40))
    np.testing.assert_allclose(kernels[0, 4], interpolating_kernel(Polygon(6), -4.0, 5), atol=1e-12)
    # Node 8 is the corner at the right and the bottom: (40, 30) / 50 from the middle.
    for layer, radius_px in enumerate((-4.0, 4.0)):
        rim_center = (-0.7 * 0.8, -0.7 * 0.6)
        expected = interpolating_kernel(Polygon(6), radius_px, 5, rim_center)
        np.testing.assert_allclose(kernels[layer, 8], expected, atol=1e-12)
    far = kernels[0, 8]
    assert far[6:, 6:].sum() < 0.5 * far[:5, :5].sum()
    # What is nearer than the focus shows the same opening turned.
    np.testing.assert_allclose(kernels[1, 8], far[::-1, ::-1], atol=1e-12)


def test_a_cat_eye_without_a_cut_is_the_shape_itself():
    random = np.random.default_rng(2)
    image = jnp.float32(random.random((16, 20, 3)))
    radius = jnp.float32(random.uniform(-3, 3, (16, 20)))
    plain = render(image, radius, aperture=Polygon(5), max_radius_px=3.0)
    uncut = render(image, radius, aperture=CatEye(Polygon(5), 0.0), max_radius_px=3.0)
    np.testing.assert_allclose(uncut, plain, atol=5e-6)


def test_lights_are_round_in_the_middle_and_cut_outside():
    eye, frame = CatEye(Disc(), 0.8), (31, 41)
    rows, columns = zone_hats(eye, frame)
    for sign in (-1.0, 1.0):
        kernels = zone_kernels(eye, np.array([4 * sign]), 15, frame)[0]
        for column in (20, 35):
            image = jnp.zeros((*frame, 3)).at[15, column].set(1.0)
            picture = render(image, jnp.full(frame, 4 * sign), aperture=eye, max_radius_px=4.0)
            expected = np.zeros(frame)
            for kernel, row, line in zip(kernels, rows, columns, strict=True):
                placed = np.pad(kernel, ((0, 0), (30, 30)))[:, 45 - column : 86 - column]
                expected += placed * np.outer(row, line)
            np.testing.assert_allclose(picture[..., 0], expected, atol=2e-6)
            # Far blur loses its outer side, near blur its inner one; in the middle neither does.
            shift_px = (np.asarray(picture[..., 0]) * (np.arange(41) - column)).sum() * sign
            assert abs(shift_px) < 0.05 if column == 20 else 0.3 < shift_px < 2


def test_constants_stay_and_layers_agree_with_the_photograph():
    eye = CatEye(Disc(), 0.7)
    radius = jnp.broadcast_to(jnp.linspace(-3.0, 3.0, 20), (16, 20))
    constant = render(jnp.full((16, 20, 3), 0.7), radius, aperture=eye, max_radius_px=3.0)
    np.testing.assert_allclose(constant, 0.7, rtol=2e-5)
    image = jnp.float32(np.random.default_rng(3).random((16, 20, 3)))
    flat = render(image, jnp.full((16, 20), -2.5), aperture=eye, max_radius_px=3.0)
    layer = jnp.concatenate([image, jnp.ones((16, 20, 1))], axis=-1)[None]
    layered = render_layers(
        layer, jnp.zeros((1, 3)), Lens(0.5, 5.0), aperture=eye, max_radius_px=3.0
    )
    np.testing.assert_allclose(layered, flat, atol=5e-6)


def test_slopes_are_those_of_a_linear_blur():
    random = np.random.default_rng(4)
    image, direction, probe = (jnp.float32(random.random((9, 11, 3))) for _ in range(3))
    radius, eye = jnp.full((9, 11), -1.7), CatEye(Polygon(5), 0.6)

    def seen(image, radius=radius):
        return jnp.sum(probe * render_radius(image, radius, aperture=eye, max_radius_px=2.0))

    # Off silhouettes a blur is linear, so the slope along a picture is that picture, blurred.
    slope, by_radius = jax.jit(jax.grad(seen, argnums=(0, 1)))(image, radius)
    np.testing.assert_allclose(jnp.sum(slope * direction), seen(direction), rtol=1e-5)
    assert jnp.isfinite(by_radius).all()
    assert jnp.any(by_radius != 0)
