import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bokeh_jax.optics import Disc, Polygon, aperture_kernel
from bokeh_jax.optics.aperture import is_point_symmetric

SHAPES = [Disc(), Polygon(3, 0.3), Polygon(5, -math.pi / 2, 0.4), Polygon(6, 0.1), Polygon(4, 0, 1)]


def inside(shape, x, y):
    """Independent of the boundary: half-planes of a polygon, blended with the disc by distance."""
    distance, angle = np.hypot(x, y), np.arctan2(y, x)
    if isinstance(shape, Disc):
        return distance <= 1
    sides = shape.rotation_rad + (np.arange(shape.blades) + 0.5) * 2 * math.pi / shape.blades
    towards = np.cos(angle[..., None] - sides).max(axis=-1)
    edge = math.cos(math.pi / shape.blades) / towards
    return distance <= edge * (1 - shape.roundness) + shape.roundness


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("radius_px", [0.8, 3.3, -3.3, 7.0])
def test_kernels_hold_the_area_that_counting_finds(shape, radius_px):
    half, fine = 8, 65
    along = (np.arange((2 * half + 1) * fine) + 0.5) / fine - half - 0.5
    x, y = np.meshgrid(along, along)
    hit = inside(shape, -x / radius_px, -y / radius_px)
    counted = hit.reshape(2 * half + 1, fine, 2 * half + 1, fine).mean(axis=(1, 3))
    kernel = aperture_kernel(shape, radius_px, half)
    np.testing.assert_allclose(kernel, counted / counted.sum(), atol=4e-3 / counted.sum())


@given(st.floats(0.7072, 30.0))
def test_disc_has_the_closed_form_height_sum_and_second_moment(radius_px):
    half = math.ceil(radius_px)
    kernel = aperture_kernel(Disc(), radius_px, half)
    assert abs(kernel.sum() - 1) < 1e-12
    # The middle pixel lies wholly inside: one pixel's share of pi r^2.
    np.testing.assert_allclose(kernel[half, half], 1 / (math.pi * radius_px**2), rtol=1e-6)
    offset = np.arange(-half, half + 1)
    variance = (kernel * offset**2).sum()
    # A disc has r^2 / 4 along each axis and the pixel adds about 1 / 12.
    assert abs(variance - radius_px**2 / 4 - 1 / 12) < 0.1 / math.sqrt(radius_px)


def test_a_square_aperture_on_the_pixel_grid_is_a_box():
    kernel = aperture_kernel(Polygon(4, math.pi / 4), 3.5 * math.sqrt(2), 6)
    box = np.zeros((13, 13))
    box[3:10, 3:10] = 1 / 49
    np.testing.assert_allclose(kernel, box, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_no_blur_is_one_pixel_and_a_tiny_blur_stays_inside_it(shape):
    expected = np.zeros((5, 5))
    expected[2, 2] = 1
    for radius_px in (0.0, 1e-9, -0.4):
        np.testing.assert_allclose(aperture_kernel(shape, radius_px, 2), expected, atol=1e-12)


def test_far_blur_shows_the_aperture_upright_and_near_blur_turned():
    # A corner at the top: y runs down.
    upright = aperture_kernel(Polygon(3, -math.pi / 2), -6.0, 6)
    widths = (upright > 0).sum(axis=1)
    assert widths[1] < widths[5] < widths[8]
    np.testing.assert_allclose(
        aperture_kernel(Polygon(3, -math.pi / 2), 6.0, 6), upright[::-1, ::-1], atol=1e-12
    )


@pytest.mark.parametrize("shape", [*SHAPES, Polygon(5, roundness=1.0), Polygon(8, 0.3, 0.2)])
def test_point_symmetry_is_what_the_kernel_shows(shape):
    kernel = aperture_kernel(shape, 5.0, 5)
    turned = np.abs(kernel - kernel[::-1, ::-1]).max()
    assert is_point_symmetric(shape) == (turned < 1e-6)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Polygon(2), "blades must be at least 3, got 2"),
        (lambda: Polygon(5, roundness=1.1), r"roundness must lie in \[0, 1\], got 1.1"),
        (lambda: Polygon(5, math.nan), "rotation_rad must be finite, got nan"),
        (lambda: aperture_kernel(Disc(), 3.6, 3), "signed_radius_px must lie within"),
        (lambda: aperture_kernel(Disc(), math.nan, 3), "signed_radius_px must lie within"),
    ],
)
def test_bad_values_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
