import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import convolve
from scipy.signal import fftconvolve

from bokeh_jax.optics import Disc, Polygon, aperture_kernel
from bokeh_jax.optics.layer_kernels import (
    _known_kernel,
    _under_tents,
    interpolating_kernel,
    layer_kernel,
    slab_kernels,
)
from bokeh_jax.optics.layer_plan import Slab
from bokeh_jax.optics.resample import double, double_smoothly, halve, shrink


def bilinear_average(shape_points, radius_px, half_size_px):
    """Mean over the opening of what a point of light, interpolated linearly, gives to pixels."""
    pixels = np.arange(-half_size_px, half_size_px + 1)
    rows, columns = (
        np.maximum(0, 1 - np.abs(pixels[:, None] - radius_px * line)) for line in shape_points
    )
    return rows @ columns.T / len(shape_points[0])


@pytest.mark.parametrize("radius_px", [0.5, 1.0, 2.5, 11.0])
def test_the_kernel_is_the_mean_of_the_linearly_interpolated_photograph(radius_px):
    y, x = (np.mgrid[:1200, :1200] + 0.5) / 600 - 1
    inside = x**2 + y**2 <= 1
    half_size_px = int(np.ceil(radius_px)) + 1
    expected = bilinear_average((y[inside], x[inside]), radius_px, half_size_px)
    kernel = interpolating_kernel(Disc(), radius_px, half_size_px)
    np.testing.assert_allclose(kernel, expected, atol=2e-3 * expected.max())
    assert abs(kernel.sum() - 1) < 1e-12


def test_half_a_pixel_of_radius_blurs_where_the_area_inside_pixels_does_not():
    assert aperture_kernel(Disc(), 0.5, 2)[2, 2] == pytest.approx(1)
    assert interpolating_kernel(Disc(), 0.5, 2)[2, 2] < 0.7
    np.testing.assert_array_equal(
        interpolating_kernel(Disc(), 0.0, 2), np.outer(*[[0, 0, 1, 0, 0]] * 2)
    )


@pytest.mark.parametrize(("shape", "radius_px"), [(Disc(), 8.0), (Polygon(5), -14.0)])
def test_a_kernel_of_half_the_resolution_blurs_as_that_of_the_full(shape, radius_px):
    random = np.random.default_rng(0)
    # Power 1 / f^2, as photographs have it.
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(256), np.fft.fftfreq(256)))
    noise = np.fft.fft2(random.normal(size=(256, 256))) / np.maximum(frequency, 1 / 256)
    picture = np.fft.ifft2(noise).real
    picture /= picture.std()
    full = fftconvolve(picture, interpolating_kernel(shape, radius_px, 20), mode="same")
    kernel = layer_kernel(shape, radius_px, 1, 12)
    assert kernel.sum() == pytest.approx(1)
    coarse = fftconvolve(shrink(jnp.asarray(picture)), kernel, mode="same")
    error = np.std((np.asarray(double_smoothly(jnp.asarray(coarse))) - full)[40:-40, 40:-40])
    assert error < 0.0046
    # The opening's area inside coarse pixels is much farther away.
    naive = convolve(halve(jnp.asarray(picture)), aperture_kernel(shape, radius_px / 2, 12))
    error_of_area = np.std((np.asarray(double(jnp.asarray(naive))) - full)[40:-40, 40:-40])
    assert error_of_area > 2.8 * error


def test_near_blur_is_far_blur_turned_on_every_level():
    for level in (0, 1, 2):
        near, far = (layer_kernel(Polygon(3), sign * 9.0, level, 12) for sign in (1, -1))
        np.testing.assert_allclose(near, far[::-1, ::-1], atol=1e-4)
        assert np.abs(near - far).max() > 1e-3


def test_known_kernels_are_made_once_and_nobody_writes_to_them():
    shape, slabs = Polygon(7, 0.123), (Slab((0.7, 1.9), 0.0, 3.0),)
    made = [slab_kernels(shape, slabs, 0, 4, (32, 32)) for _ in range(2)]
    before = _known_kernel.cache_info()
    made.append(slab_kernels(Polygon(7, 0.123), slabs, 0, 4, (32, 32)))
    after = _known_kernel.cache_info()
    assert after.misses == before.misses
    assert after.hits > before.hits
    made[0][:] = 0.0
    np.testing.assert_array_equal(made[1], made[2])
    assert made[1].sum() > 0
    with pytest.raises(ValueError, match="read-only"):
        _known_kernel(shape, slabs[0].nodes_px[0], 0, 4, None)[0, 0] = 1.0


def test_sums_under_tents_are_those_of_a_dense_matrix():
    parts, size = 5, 4
    fine = np.random.default_rng(0).random(((size + 1) * parts + 1, 7))
    tent = np.convolve(np.ones(parts), np.ones(parts))
    lines = np.zeros((size, len(fine)))
    for pixel in range(size):
        lines[pixel, 1 + pixel * parts : 2 * parts + pixel * parts] = tent
    np.testing.assert_allclose(_under_tents(fine, parts), lines @ fine, rtol=1e-12)
