"""Tilted focus, a range in focus, blur on one side: closed forms of the signed radius."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bokeh_jax.optics import Lens, focus_radius_px, render_defocus, render_radius


def maps(seed=0, batch=()):
    return jnp.float32(np.random.default_rng(seed).random((*batch, 5, 8)))


def test_without_options_it_is_the_lens():
    disparity, lens = maps(), Lens(0.3, 7.0)
    np.testing.assert_array_equal(
        focus_radius_px(disparity, lens), lens.signed_radius_px(disparity)
    )


def test_the_renderer_of_a_lens_is_the_renderer_of_its_radii():
    disparity, lens = maps(), Lens(0.3, 5.0)
    image = jnp.float32(np.random.default_rng(1).random((5, 8, 3)))
    np.testing.assert_array_equal(
        jax.jit(functools.partial(render_radius, max_radius_px=2.0))(
            image, lens.signed_radius_px(disparity)
        ),
        jax.jit(functools.partial(render_defocus, max_radius_px=2.0))(image, disparity, lens),
    )


def test_a_tilted_focus_is_a_plane_through_the_pivot():
    y, x = np.mgrid[:5, :8]
    x, y = (x + 0.5) / 8, (y + 0.5) / 5
    plane = 0.4 + 0.3 * (x - 0.2) - 0.5 * (y - 0.7)
    options = {"tilt": (0.3, -0.5), "pivot": (0.2, 0.7)}
    radius = focus_radius_px(jnp.float32(plane), Lens(0.4, 50.0), **options)
    np.testing.assert_allclose(radius, 0, atol=1e-5)
    disparity = maps()
    radius = focus_radius_px(disparity, Lens(0.4, 50.0), **options)
    np.testing.assert_allclose(radius, 50 * (disparity - plane), atol=2e-5)


def test_a_range_in_focus_is_sharp_and_moves_the_rest_towards_it():
    disparity = jnp.float32([[0.0, 0.3, 0.39, 0.41, 0.5, 0.59, 0.61, 0.8]])
    radius = focus_radius_px(disparity, Lens(0.5, 10.0), in_focus_range=0.2)
    expected = [[-4, -1, -0.1, 0, 0, 0, 0.1, 2]]
    np.testing.assert_allclose(radius, expected, atol=1e-5)
    assert not np.asarray(radius)[0, 3:6].any()


@pytest.mark.parametrize(
    ("only", "bound"), [("foreground", np.maximum), ("background", np.minimum)]
)
def test_one_side_alone_is_blurred(only, bound):
    disparity, lens = maps(), Lens(0.5, 10.0)
    both = focus_radius_px(disparity, lens, in_focus_range=0.1)
    one = focus_radius_px(disparity, lens, in_focus_range=0.1, only=only)
    np.testing.assert_array_equal(one, bound(both, 0))
    assert np.any(one != 0)


def test_every_map_may_have_its_own():
    disparity = maps(3, (2, 3))
    random = np.random.default_rng(4)
    lenses = Lens(jnp.float32(random.random((2, 3))), 6.0)
    tilt, pivot = (jnp.float32(random.random((2, 3, 2))) for _ in range(2))
    width = jnp.float32(random.random((2, 3)))
    radius = focus_radius_px(disparity, lenses, tilt=tilt, pivot=pivot, in_focus_range=width)
    for index in np.ndindex(2, 3):
        expected = focus_radius_px(
            disparity[index],
            Lens(lenses.focus_disparity[index], 6.0),
            tilt=tilt[index],
            pivot=pivot[index],
            in_focus_range=width[index],
        )
        np.testing.assert_allclose(radius[index], expected, atol=1e-6)


def test_slopes_are_those_of_the_plane():
    disparity = maps(5)

    def total(tilt, width):
        return jnp.sum(focus_radius_px(disparity, Lens(-3.0, 2.0), tilt=tilt, in_focus_range=width))

    # Everything is nearer than the range, so s = K (d - f - R / 2) everywhere.
    tilt, width = jax.grad(total, argnums=(0, 1))(jnp.float32([0.1, 0.2]), jnp.float32(0.5))
    np.testing.assert_allclose(tilt, 0, atol=1e-4)
    np.testing.assert_allclose(width, -2.0 * 40 / 2, rtol=1e-5)
    corner = jax.grad(
        lambda tilt: focus_radius_px(disparity, Lens(-3.0, 2.0), tilt=tilt, pivot=(0, 0))[4, 7]
    )(jnp.zeros(2))
    np.testing.assert_allclose(corner, [-2 * 7.5 / 8, -2 * 4.5 / 5], rtol=1e-5)


def test_half_precision_maps_are_computed_in_single():
    disparity = maps().astype(jnp.bfloat16)
    radius = focus_radius_px(disparity, Lens(0.3, 100.0))
    assert radius.dtype == jnp.float32
    expected = 100 * (disparity.astype(jnp.float32) - 0.3)
    np.testing.assert_allclose(radius, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": "middle"}, "only must be one of both, foreground, background, got 'middle'"),
        ({"in_focus_range": -0.1}, "in_focus_range must be >= 0, got -0.1"),
        ({"in_focus_range": jnp.zeros(3)}, r"in_focus_range of batch shape \(3,\) does not fit"),
        ({"tilt": jnp.zeros((3, 2))}, r"tilt of batch shape \(3,\) does not fit"),
    ],
)
def test_bad_values_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        focus_radius_px(maps(), Lens(0.0, 1.0), **options)
