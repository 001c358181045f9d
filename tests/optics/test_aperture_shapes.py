"""Openings with a brightness of their own, anamorphic ones, pictures, and the rim's cut."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bokeh_jax.optics import (
    CatEye,
    Disc,
    KernelImage,
    Polygon,
    Ring,
    Squeezed,
    aperture_kernel,
    render_radius,
    squeezed,
)
from bokeh_jax.optics.aperture import is_point_symmetric
from bokeh_jax.optics.layer_kernels import interpolating_kernel

HALF, FINE = 8, 65


def brightness(shape, x, y):
    """Light of an opening at a point, from its definition rather than from outlines."""
    match shape:
        case Disc():
            return np.float64(np.hypot(x, y) <= 1)
        case Polygon(blades=blades, rotation_rad=rotation_rad):
            sides = rotation_rad + (np.arange(blades) + 0.5) * 2 * math.pi / blades
            reach = np.stack([x * math.cos(s) + y * math.sin(s) for s in sides]).max(axis=0)
            return np.float64(reach <= math.cos(math.pi / blades))
        case Ring():
            q = scale_to(shape.shape, x, y)
            return ((q <= 1) & (q >= shape.hole)) * (1 + (shape.rim - 1) * q**shape.power)
        case Squeezed():
            wide, tall = min(1, shape.squeeze), min(1, 1 / shape.squeeze)
            return brightness(shape.shape, x / wide, y / tall)
    raise AssertionError(shape)


def scale_to(shape, x, y):
    """The factor by which a shape must be scaled for its edge to pass through a point."""
    if isinstance(shape, Disc):
        return np.hypot(x, y)
    sides = shape.rotation_rad + (np.arange(shape.blades) + 0.5) * 2 * math.pi / shape.blades
    reach = np.stack([x * math.cos(s) + y * math.sin(s) for s in sides]).max(axis=0)
    return reach / math.cos(math.pi / shape.blades)


def counted(light):
    """The kernel that counting finds: means of light(x, y) over pixels, x and y in pixels."""
    along = (np.arange((2 * HALF + 1) * FINE) + 0.5) / FINE - HALF - 0.5
    x, y = np.meshgrid(along, along)
    pixels = light(x, y).reshape(2 * HALF + 1, FINE, 2 * HALF + 1, FINE).mean(axis=(1, 3))
    return pixels / pixels.sum()


@pytest.mark.parametrize(
    "shape",
    [
        Ring(rim=3.0),
        Ring(rim=0.0, power=2.0),
        Ring(Polygon(5, 0.3), rim=2.0, hole=0.4),
        Squeezed(Disc(), 0.5),
        Squeezed(Polygon(3, 0.2), 2.0),
        Squeezed(Ring(hole=0.5), 0.7),
    ],
)
@pytest.mark.parametrize("radius_px", [-3.3, 7.0])
def test_kernels_hold_the_light_that_counting_finds(shape, radius_px):
    expected = counted(lambda x, y: brightness(shape, -x / radius_px, -y / radius_px))
    kernel = aperture_kernel(shape, radius_px, HALF)
    # Steps of brightness inside a ring cost a few per cent of a pixel's own light.
    np.testing.assert_allclose(kernel, expected, atol=0.03 * expected.max())
    assert abs(kernel.sum() - 1) < 1e-12
    assert kernel.min() >= 0


def test_the_rings_of_a_brightness_keep_its_light_and_its_spread():
    radius_px, ring = 20.0, Ring(rim=4.0, power=3.0, hole=0.25)
    kernel = aperture_kernel(ring, radius_px, 20)
    y, x = np.mgrid[-20:21, -20:21]
    q = np.linspace(0.25, 1, 100001)
    light = (1 + 3 * q**3) * q
    second_moment = np.trapezoid(light * q**2, q) / np.trapezoid(light, q) * radius_px**2
    np.testing.assert_allclose((kernel * (x**2 + y**2)).sum(), second_moment + 1 / 6, rtol=2e-3)


@pytest.mark.parametrize("radius_px", [-3.3, 7.0])
@pytest.mark.parametrize("rim_center", [(0.5, -0.3), (-0.9, 0.0)])
@pytest.mark.parametrize("shape", [Disc(), Polygon(5, 0.3), Ring(rim=3.0), Squeezed(Disc(), 0.6)])
def test_the_rim_cuts_every_shape(shape, rim_center, radius_px):
    def light(x, y):
        x, y = -x / radius_px, -y / radius_px
        passes = np.hypot(x - rim_center[0], y - rim_center[1]) <= 1
        return passes * brightness(shape, x, y)

    expected = counted(light)
    kernel = aperture_kernel(shape, radius_px, HALF, rim_center=rim_center)
    np.testing.assert_allclose(kernel, expected, atol=0.03 * expected.max())


@pytest.mark.parametrize("size", [(5, 3), (4, 6)])
@pytest.mark.parametrize("aspect", [1.0, 0.5, 3.0])
@pytest.mark.parametrize("radius_px", [-3.3, 7.0])
def test_a_picture_is_resampled_by_area(size, aspect, radius_px):
    picture = np.random.default_rng(0).random(size)
    image = squeezed(KernelImage.from_array(picture), aspect)
    extent = np.array([size[0], size[1] * aspect])
    extent = extent / extent.max()

    def light(x, y):
        row = np.floor((-y / radius_px / extent[0] + 1) / 2 * size[0]).astype(int)
        column = np.floor((-x / radius_px / extent[1] + 1) / 2 * size[1]).astype(int)
        inside = (row >= 0) & (row < size[0]) & (column >= 0) & (column < size[1])
        return inside * picture[np.clip(row, 0, size[0] - 1), np.clip(column, 0, size[1] - 1)]

    expected = counted(light)
    kernel = aperture_kernel(image, radius_px, HALF)
    np.testing.assert_allclose(kernel, expected, atol=0.03 * expected.max())


@pytest.mark.parametrize("rim_center", [None, (0.4, -0.3)])
def test_a_picture_of_a_disc_is_a_disc(rim_center):
    y, x = (np.mgrid[:129, :129] + 0.5) * 2 / 129 - 1
    picture = KernelImage.from_array(np.float32(np.hypot(x, y) <= 1))
    for radius_px in (-4.0, 2.5):
        disc = aperture_kernel(Disc(), radius_px, 4, rim_center=rim_center)
        kernel = aperture_kernel(picture, radius_px, 4, rim_center=rim_center)
        np.testing.assert_allclose(kernel, disc, atol=0.02 * disc.max())


def test_equal_pictures_are_one_static_argument():
    picture = np.random.default_rng(1).random((4, 5))
    first, second = KernelImage.from_array(picture), KernelImage.from_array(3 * picture)
    assert first == KernelImage.from_array(picture)
    assert hash(first) == hash(KernelImage.from_array(picture))
    assert first != second
    np.testing.assert_allclose(aperture_kernel(first, 2.5, 3), aperture_kernel(second, 2.5, 3))
    render = jax.jit(render_radius, static_argnames=("aperture", "max_radius_px"))
    image = jnp.zeros((9, 9, 3)).at[4, 4].set(1.0)
    far = render(image, jnp.full((9, 9), -3.0), aperture=first, max_radius_px=3.0)
    np.testing.assert_allclose(far[..., 0], interpolating_kernel(first, -3.0, 4), atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (Ring(Disc(), 3.0), True),
        (Ring(Polygon(5)), False),
        (Squeezed(Polygon(6, 0.2), 0.5), True),
        (Squeezed(Ring(Polygon(3)), 0.5), False),
        (KernelImage.from_array(np.float32([[1, 2, 1]])), True),
        (KernelImage.from_array(np.float32([[1, 2, 3]])), False),
        (CatEye(Disc(), 0.5), False),
    ],
)
def test_point_symmetry_is_what_the_kernel_shows(shape, expected):
    assert is_point_symmetric(shape) == expected
    if not isinstance(shape, CatEye):
        kernel = aperture_kernel(shape, 5.0, 5)
        turned = np.abs(kernel - kernel[::-1, ::-1]).max()
        assert (turned < 1e-6) == expected


def test_squeezing_twice_is_squeezing_once():
    assert squeezed(Squeezed(Disc(), 0.5), 0.5) == Squeezed(Disc(), 0.25)
    assert squeezed(KernelImage.from_array(np.ones((2, 2))), 0.5).pixel_aspect == 0.5


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Ring(rim=-1.0), "rim must be finite and >= 0, got -1.0"),
        (lambda: Ring(rim=math.inf), "rim must be finite and >= 0, got inf"),
        (lambda: Ring(power=0), "power must be finite and > 0, got 0"),
        (lambda: Ring(hole=1.0), r"hole must lie in \[0, 1\), got 1.0"),
        (lambda: Squeezed(Disc(), 0), "squeeze must be finite and > 0, got 0"),
        (lambda: CatEye(Disc(), 1.0), r"amount must lie in \[0, 1\), got 1.0"),
        (lambda: CatEye(Disc(), 0.5, 1), "zones must be at least 2, got 1"),
        (lambda: KernelImage.from_array(np.zeros((3, 3))), "not all dark"),
        (lambda: KernelImage.from_array(np.float32([[1, -1e-3]])), "not negative"),
        (lambda: KernelImage.from_array(np.float32([[1, np.nan]])), "must be finite"),
        (lambda: KernelImage(b"1234", 2, 1), "2 x 1 float32 values, got 4 bytes"),
        (lambda: KernelImage(b"1234", 1, 1, -1.0), "pixel_aspect must be finite and > 0"),
        (
            lambda: aperture_kernel(Disc(), 2.0, 3, rim_center=(0.8, 0.8)),
            "rim_center must lie less than 1 from the axis",
        ),
        (
            lambda: aperture_kernel(
                KernelImage.from_array(np.eye(9)[:1]), 2.0, 3, rim_center=(0.9, 0.0)
            ),
            "no light of the kernel picture passes",
        ),
    ],
)
def test_bad_values_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
