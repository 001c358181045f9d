import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bokeh_jax.optics import Lens

CAMERA = {
    "focal_length_m": 0.05,
    "f_number": 2.0,
    "focus_distance_m": 2.0,
    "sensor_width_m": 0.036,
    "width_px": 512,
}


def test_the_example_computed_by_hand():
    lens = Lens.from_camera(**CAMERA)
    np.testing.assert_allclose(lens.blur_px, 9.1168, rtol=1e-5)
    assert lens.focus_disparity == 0.5
    np.testing.assert_allclose(lens.signed_radius_px(jnp.zeros((1, 1))), [[-4.5584]], rtol=1e-5)


@given(
    focal_m=st.floats(0.01, 0.2),
    number=st.floats(1.0, 22.0),
    focus_m=st.floats(0.3, 50.0),
    point_m=st.floats(0.25, 1000.0),
)
def test_radius_is_the_distance_of_the_marginal_ray_from_the_sensor_point(
    focal_m, number, focus_m, point_m
):
    # The image of either distance behind the lens, then similar triangles from the aperture's rim.
    sensor_m = 1 / (1 / focal_m - 1 / focus_m)
    image_m = 1 / (1 / focal_m - 1 / point_m)
    rim_m = focal_m / number / 2
    radius_m = rim_m * (image_m - sensor_m) / image_m
    lens = Lens.from_camera(
        focal_length_m=focal_m,
        f_number=number,
        focus_distance_m=focus_m,
        sensor_width_m=0.036,
        width_px=1000,
    )
    radius_px = lens.signed_radius_px(jnp.full((1, 1), 1 / point_m))[0, 0]
    scale = float(lens.blur_px) * max(1 / point_m, 1 / focus_m)
    assert abs(radius_px - radius_m / 0.036 * 1000) < 2e-5 * scale


def test_batches_of_cameras_pair_with_batches_of_maps():
    lens = Lens(jnp.float32([0.2, 0.4]), 3.0)
    assert lens.shape == (2,)
    disparity = jnp.float32(np.linspace(0, 1, 2 * 3 * 4)).reshape(2, 3, 4)
    for index, focus in enumerate((0.2, 0.4)):
        expected = 3.0 * (disparity[index] - focus)
        np.testing.assert_allclose(lens.signed_radius_px(disparity)[index], expected, atol=1e-6)
    with pytest.raises(
        ValueError, match=r"lens of shape \(2,\) does not fit disparity batch \(3,\)"
    ):
        lens.signed_radius_px(jnp.zeros((3, 4, 4)))


def test_resizing_scales_the_blur_and_leaves_the_fraction_alone():
    lens = Lens(0.3, 8.0)
    half = lens.rescaled(0.5)
    assert (half.focus_disparity, half.blur_px) == (lens.focus_disparity, 4.0)
    assert half.blur_fraction(100) == lens.blur_fraction(200) == np.float32(0.04)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Lens(0.5, -1.0), "blur_px must be finite and >= 0, got -1.0"),
        (lambda: Lens(float("nan"), 1.0), "focus_disparity must be finite, got nan"),
        (lambda: Lens(0.5, float("inf")), "blur_px must be finite and >= 0, got inf"),
        (lambda: Lens(jnp.zeros(2), jnp.zeros(3)), "must broadcast together"),
        (lambda: Lens(0.5, 1.0).rescaled(0.0), "scale must be positive and finite, got 0.0"),
        (lambda: Lens(0.5, 1.0).blur_fraction(0), "width_px must be at least 1, got 0"),
        (
            lambda: Lens.from_camera(**CAMERA | {"focus_distance_m": 0.05}),
            "focus_distance_m must be greater than focal_length_m",
        ),
        (
            lambda: Lens.from_camera(**CAMERA | {"focal_length_m": 0.0}),
            "focal_length_m must be finite and > 0, got 0.0",
        ),
        (
            lambda: Lens.from_camera(**CAMERA | {"f_number": -2.0}),
            "f_number must be finite and > 0, got -2.0",
        ),
        (
            lambda: Lens.from_camera(**CAMERA | {"sensor_width_m": 0.0}),
            "sensor_width_m must be finite and > 0, got 0.0",
        ),
        (
            lambda: Lens.from_camera(**CAMERA | {"focus_distance_m": float("nan")}),
            "focus_distance_m must be finite and > 0, got nan",
        ),
        (
            lambda: Lens.from_camera(**CAMERA | {"width_px": 0}),
            "width_px must be at least 1, got 0",
        ),
    ],
)
def test_bad_values_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_lens_passes_through_compiled_functions_unchecked():
    def radius(lens):
        return Lens(lens.focus_disparity, -lens.blur_px).signed_radius_px(jnp.ones((1, 1)))[0, 0]

    lens = Lens(0.25, 4.0)
    assert jax.jit(radius)(lens) == -3.0
    slope = jax.grad(radius)(lens)
    assert isinstance(slope, Lens)
    assert (slope.focus_disparity, slope.blur_px) == (4.0, -0.75)


def test_cameras_made_in_a_compiled_function_match_those_made_outside():
    build = jax.jit(lambda distance: Lens.from_camera(**CAMERA | {"focus_distance_m": distance}))
    distances = jnp.float32([1.0, 3.0])
    np.testing.assert_allclose(
        build(distances).blur_px,
        Lens.from_camera(**CAMERA | {"focus_distance_m": distances}).blur_px,
        rtol=1e-6,
    )
