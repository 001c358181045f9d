import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import convolve
from skimage.restoration import wiener

from bokeh_jax.evaluation.deconvolution import deconvolve
from bokeh_jax.optics import Disc, aperture_kernel

HEIGHT, WIDTH, RADIUS, MOST = 40, 48, 3.0, 4
KERNEL = np.asarray(aperture_kernel(Disc(), RADIUS, MOST), np.float32)


@pytest.fixture(scope="module")
def sharp():
    rng = np.random.default_rng(0)
    coarse = jnp.asarray(rng.uniform(0.2, 0.8, (1, HEIGHT // 4, WIDTH // 4, 3)), jnp.float32)
    return np.asarray(jax.image.resize(coarse, (1, HEIGHT, WIDTH, 3), "linear"))


@pytest.fixture(scope="module")
def blurred(sharp):
    planes = [convolve(sharp[0, ..., channel], KERNEL, mode="reflect") for channel in range(3)]
    return np.stack(planes, axis=-1)[None]


def sharpened(image, radius_px, noise=1e-3):
    radii = jnp.broadcast_to(jnp.asarray(radius_px, jnp.float32), image.shape[:3])
    run = jax.jit(lambda x, r: deconvolve(x, r, max_radius_px=float(MOST), noise_to_signal=noise))
    return np.asarray(run(jnp.asarray(image), radii))


def error_db(image, truth):
    return -10 * np.log10(np.mean((image - truth) ** 2))


def test_what_is_sharp_stays_as_it_is(sharp):
    np.testing.assert_allclose(sharpened(sharp, 0.0), sharp, atol=2e-6)


def test_known_blur_is_taken_back(sharp, blurred):
    found = sharpened(blurred, RADIUS)
    assert error_db(found, sharp) > error_db(blurred, sharp) + 10.0
    # The sign says on which side of the focus plane; a disc does not care.
    np.testing.assert_allclose(sharpened(blurred, -RADIUS), found, atol=1e-6)
    # A wrong radius is worse than none.
    assert error_db(sharpened(blurred, 4.0), sharp) < error_db(blurred, sharp)


def test_it_is_wieners_filter(blurred):
    delta = np.zeros((3, 3))
    delta[1, 1] = 1.0
    found = sharpened(blurred, RADIUS, noise=1e-2)
    for channel in range(3):
        padded = np.pad(blurred[0, ..., channel], [(0, HEIGHT), (0, WIDTH)], mode="symmetric")
        # A regulariser whose spectrum is 1 everywhere; theirs does not keep the mean.
        expected = wiener(padded, KERNEL, 1e-2, reg=delta, clip=False)[:HEIGHT, :WIDTH]
        np.testing.assert_allclose(found[0, ..., channel] / 1.01, expected, atol=1e-4)


def test_every_pixel_is_sharpened_by_its_own_radius(blurred):
    """Between two of the radii that are tried, linearly."""
    radii = np.broadcast_to(np.arange(WIDTH) % 5, (1, HEIGHT, WIDTH)) * 0.5 + 1.0
    found = sharpened(blurred, radii)
    levels = {radius: sharpened(blurred, radius) for radius in (1.0, 2.0, 3.0)}
    columns = np.arange(WIDTH)
    for radius, low, high in ((1.0, 1, 1), (1.5, 1, 2), (2.0, 2, 2), (2.5, 2, 3), (3.0, 3, 3)):
        which = columns[(columns % 5) * 0.5 + 1.0 == radius]
        # Clipped at 0 after the sum; nothing here is.
        expected = 0.5 * (levels[low] + levels[high])
        np.testing.assert_allclose(found[:, :, which], expected[:, :, which], atol=1e-5)
