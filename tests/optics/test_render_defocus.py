import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mixed_kernel import mixed_kernel

from bokeh_jax.optics import Disc, Lens, Polygon, render_defocus
from bokeh_jax.optics.defocus import _check_values
from bokeh_jax.optics.layer_kernels import interpolating_kernel

SIZE = 16
# One radius wherever another would guard nothing: every other one is a program of its own.
render = jax.jit(render_defocus, static_argnames=("aperture", "max_radius_px"))


def scene(seed, jump=True):
    """A random picture whose disparity has a slope, a little noise and one silhouette."""
    random = np.random.default_rng(seed)
    image = random.random((SIZE, SIZE, 3))
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    disparity = 0.2 * x + 0.1 * y + 0.02 * random.random((SIZE, SIZE))
    if jump:
        disparity += 0.6 * (np.hypot(x - 0.5, y - 0.4) < 0.27)
    return image, disparity


def float32_scene(seed):
    return tuple(jnp.float32(array) for array in scene(seed))


def test_without_blur_the_image_returns_bit_for_bit():
    image, disparity = float32_scene(0)
    for lens in (Lens(0.4, 0.0), Lens(-3.0, 0.0)):
        np.testing.assert_array_equal(render(image, disparity, lens, max_radius_px=4.0), image)
    flat = jnp.full_like(disparity, 0.3)
    np.testing.assert_array_equal(render(image, flat, Lens(0.3, 9.0), max_radius_px=4.0), image)
    np.testing.assert_array_equal(render(image, disparity, Lens(0.3, 9.0), max_radius_px=0), image)
    unmoved = render(image, flat, Lens(0.3, 9.0), max_radius_px=4.0)
    np.testing.assert_array_equal(unmoved, image)


@pytest.mark.parametrize("aperture", [Disc(), Polygon(3, 0.2)])
@pytest.mark.parametrize("radius_px", [-4.0, 3.0, 2.25, -0.5])
def test_a_point_of_light_becomes_the_aperture(aperture, radius_px):
    image = jnp.zeros((SIZE, SIZE, 3)).at[8, 8].set(jnp.float32([1.0, 2.0, 40.0]))
    flat = jnp.ones((SIZE, SIZE))
    picture = render(
        image, flat, Lens(1 - radius_px / 8, 8.0), aperture=aperture, max_radius_px=4.0
    )
    kernel = mixed_kernel(aperture, radius_px, 4.0, 8)[:SIZE, :SIZE]
    np.testing.assert_allclose(picture, kernel[..., None] * [1.0, 2.0, 40.0], atol=4e-6)
    assert picture.min() >= 0


def test_radii_beyond_the_maximum_are_clamped_to_it():
    image, _ = float32_scene(1)
    near, far = jnp.ones((SIZE, SIZE)), jnp.zeros((SIZE, SIZE))
    lens, limit = Lens(0.5, 90.0), Lens(0.5, 8.0)
    for flat in (near, far):
        clamped = render(image, flat, lens, max_radius_px=4.0)
        expected = render(image, flat, limit, max_radius_px=4.0)
        np.testing.assert_allclose(clamped, expected, atol=1e-6)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 1000), st.floats(0.0, 1.0), st.floats(0.0, 12.0), st.floats(1e-3, 1e3))
def test_brightness_scales_and_constants_stay(seed, focus, blur, scale):
    image, disparity = float32_scene(seed)
    lens = Lens(focus, blur)
    picture = render(image, disparity, lens, max_radius_px=4.0)
    brighter = render(image * jnp.float32(scale), disparity, lens, max_radius_px=4.0)
    np.testing.assert_allclose(brighter, picture * jnp.float32(scale), atol=1e-5 * scale)
    constant = render(jnp.full_like(image, scale), disparity, lens, max_radius_px=4.0)
    np.testing.assert_allclose(constant, scale, rtol=2e-5)
    assert picture.min() >= 0
    assert picture.max() <= image.max() * (1 + 1e-5)


@settings(deadline=None, max_examples=6)
@given(st.integers(0, 1000), st.floats(0.0, 1.0))
def test_turning_and_mirroring_the_scene_turns_and_mirrors_the_picture(seed, focus):
    image, disparity = float32_scene(seed)
    lens = Lens(focus, 7.0)
    picture = render(image, disparity, lens, max_radius_px=4.0)
    for turn in (jnp.rot90, functools.partial(jnp.flip, axis=1)):
        turned = render(turn(image), turn(disparity), lens, max_radius_px=4.0)
        np.testing.assert_allclose(turned, turn(picture), atol=2e-5)


def test_a_batch_is_its_examples_and_one_blur_may_serve_all():
    scenes = [float32_scene(seed) for seed in range(6)]
    images = jnp.stack([image for image, _ in scenes]).reshape(2, 3, SIZE, SIZE, 3)
    disparity = jnp.stack([d for _, d in scenes]).reshape(2, 3, SIZE, SIZE)
    # What every example has of its own, and what all have in common.
    focus = jnp.linspace(0.0, 1.0, 6).reshape(2, 3)
    pictures = render(images, disparity, Lens(focus, 6.0), max_radius_px=4.0)
    for index in np.ndindex(2, 3):
        alone = Lens(focus[index], 6.0)
        expected = render(images[index], disparity[index], alone, max_radius_px=4.0)
        np.testing.assert_allclose(pictures[index], expected, atol=5e-6)


def test_mapping_over_a_batch_is_its_examples():
    images, disparity = (jnp.stack(a) for a in zip(*map(float32_scene, range(3)), strict=True))
    lenses = Lens(jnp.float32([0.1, 0.5, 0.8]), 6.0)
    draw = functools.partial(render_defocus, max_radius_px=4.0)
    mapped = jax.jit(jax.vmap(draw))(images, disparity, lenses)
    for index, picture in enumerate(mapped):
        lens = Lens(lenses.focus_disparity[index], 6.0)
        expected = render(images[index], disparity[index], lens, max_radius_px=4.0)
        np.testing.assert_allclose(picture, expected, atol=5e-6)


def test_half_precision_is_computed_in_single():
    image, disparity = float32_scene(2)
    half = image.astype(jnp.bfloat16)
    picture = render(half, disparity.astype(jnp.float16), Lens(0.4, 6.0), max_radius_px=4.0)
    assert picture.dtype == jnp.float32
    expected = render(
        half.astype(jnp.float32),
        disparity.astype(jnp.float16).astype(jnp.float32),
        Lens(0.4, 6.0),
        max_radius_px=4.0,
    )
    np.testing.assert_allclose(picture, expected, atol=3e-7)


def test_a_sharp_subject_keeps_its_pixels_and_a_sharp_background_its_own():
    image, _ = float32_scene(3)
    disparity = jnp.broadcast_to(jnp.float32(np.arange(SIZE) < SIZE // 2), (SIZE, SIZE))
    subject = render(image, disparity, Lens(1.0, 4.0), max_radius_px=4.0)
    np.testing.assert_allclose(subject[:, :7], image[:, :7], atol=1e-6)
    background = render(image, disparity, Lens(0.0, 4.0), max_radius_px=4.0)
    np.testing.assert_allclose(background[:, 13:], image[:, 13:], atol=1e-6)
    # The blurred subject spreads over the sharp background instead of ending at its edge.
    red = jnp.zeros_like(image).at[:, :8, 0].set(1.0)
    spread = render(red, disparity, Lens(0.0, 4.0), max_radius_px=4.0)[8, :, 0]
    kernel = interpolating_kernel(Disc(), 4.0, 5).sum(axis=0)
    np.testing.assert_allclose(spread[8:12], 1 - np.cumsum(kernel)[5:9], atol=0.01)
    # The blurred background does not spread over the sharp subject.
    np.testing.assert_allclose(
        render(red, disparity, Lens(1.0, 4.0), max_radius_px=4.0)[8, :, 0], red[8, :, 0], atol=1e-6
    )


def directional_derivatives(max_radius_px, aperture):
    """Pairs of (reverse-mode, central difference) for each input, in float64."""
    image, disparity = scene(7)
    random = np.random.default_rng(8)
    probe = random.normal(size=image.shape)
    with jax.enable_x64(True):
        arguments = [jnp.asarray(a) for a in (image, disparity, 0.437, 2.61)]

        def loss(image, disparity, focus, blur):
            lens = Lens(focus, blur)
            picture = render_defocus(
                image, disparity, lens, max_radius_px=max_radius_px, aperture=aperture
            )
            return jnp.sum(picture * probe)

        # One program for both: the values that come with slopes are the differences' too.
        run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))
        _, slopes = run(*arguments)
        for index, slope in enumerate(slopes):
            assert slope.dtype == jnp.float64
            direction = jnp.asarray(random.normal(size=slope.shape))
            ends = []
            for step in (1e-7, -1e-7):
                moved = list(arguments)
                moved[index] = moved[index] + step * direction
                ends.append(run(*moved)[0])
            yield float(jnp.sum(slope * direction)), float((ends[0] - ends[1]) / 2e-7)


def test_derivatives_are_those_of_central_differences():
    for reverse, central in directional_derivatives(1.5, Polygon(5)):
        assert abs(central) > 1e-3
        np.testing.assert_allclose(reverse, central, rtol=1e-5)


def seen(image, disparity, lens, weight):
    return jnp.sum(weight * render_defocus(image, disparity, lens, max_radius_px=3.5))


value_and_slopes = jax.jit(jax.value_and_grad(seen, argnums=(0, 1, 2)))


@pytest.mark.parametrize("blur", [0.0, 5.0])
@pytest.mark.parametrize("brightness", [0.0, 1.0])
@pytest.mark.parametrize("edge", [0.0, 1.0])
def test_derivatives_are_finite_in_the_corners(blur, brightness, edge):
    image = jnp.full((SIZE, SIZE, 3), jnp.float32(brightness))
    disparity = jnp.zeros((SIZE, SIZE)).at[4:9, 5:12].set(edge)
    weight = jnp.float32(np.random.default_rng(9).normal(size=image.shape))
    for focus in (0.0, 1.0, 0.6):
        _, slopes = value_and_slopes(image, disparity, Lens(focus, blur), weight)
        for slope in jax.tree.leaves(slopes):
            assert jnp.isfinite(slope).all()


def test_more_blur_moves_light_farther_and_the_derivative_says_so():
    image = jnp.zeros((SIZE, SIZE, 3)).at[8, 8].set(1.0)
    disparity = jnp.ones((SIZE, SIZE))
    y, x = np.mgrid[:SIZE, :SIZE] - 8
    distance = jnp.float32(np.repeat(np.hypot(x, y)[..., None] ** 2 / 3, 3, axis=-1))
    # r^2 / 2 and 1 / 3 of the interpolation; between layers the slope is that of the chord.
    value, (_, _, slopes) = value_and_slopes(image, disparity, Lens(0.0, 3.25), distance)
    np.testing.assert_allclose(value, (3**2 + 3.5**2) / 4 + 1 / 3, rtol=0.002)
    np.testing.assert_allclose(slopes.blur_px, (3.5**2 - 3**2) / 2 / 0.5, rtol=0.005)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_radius_px": -1.0}, "max_radius_px must be finite and >= 0, got -1.0"),
        ({"max_radius_px": math.nan}, "max_radius_px must be finite and >= 0, got nan"),
    ],
)
def test_bad_options_are_named(options, message):
    image, disparity = float32_scene(0)
    with pytest.raises(ValueError, match=message):
        render_defocus(image, disparity, Lens(0.0, 1.0), **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i, d: (i, d.at[3, 4].set(jnp.nan)), "signed radii must be finite, got nan"),
        (lambda i, d: (i, d.at[3, 4].set(jnp.inf)), "signed radii must be finite, got inf"),
        (lambda i, d: (i, d.at[3, 4].set(9.0)), "at least the greatest radius, 9 px, got 2"),
    ],
)
def test_what_no_lens_makes_is_named_outside_compiled_functions(change, message):
    image, disparity = float32_scene(0)
    with pytest.raises(ValueError, match=message):
        render_defocus(*change(image, disparity), Lens(0.0, 1.0), max_radius_px=2.0)


def test_integers_are_not_linear_light():
    image, disparity = float32_scene(0)
    # Within the tests the arguments' own types would refuse them before.
    with pytest.raises(ValueError, match=r"image must be linear light .* got uint8"):
        _check_values(image.astype(jnp.uint8), disparity, 2.0)


def test_a_lens_batch_that_does_not_fit_is_named():
    image, disparity = float32_scene(0)
    with pytest.raises(ValueError, match=r"lens of shape \(2,\) does not fit"):
        render_defocus(image, disparity, Lens(jnp.zeros(2), 1.0), max_radius_px=2.0)
