import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mixed_kernel import mixed_kernel

from bokeh_jax.optics import (
    Disc,
    Lens,
    Polygon,
    composite_layers,
    render_defocus,
    render_layers,
    visible_disparity,
)

render = jax.jit(render_layers, static_argnames=("aperture", "max_radius_px", "margin_px"))
RADIUS, MARGIN, STORED = 4.0, 5, 22
VISIBLE = STORED - 2 * MARGIN
jitted_defocus = jax.jit(render_defocus, static_argnames="max_radius_px")
draw = functools.partial(render, max_radius_px=RADIUS, margin_px=MARGIN)


def random_layers(seed, *batch):
    random = np.random.default_rng(seed)
    shape = (*batch, 3)
    layers = jnp.float32(random.random((*shape, STORED, STORED, 4)))
    planes = jnp.float32(random.uniform(-1, 1, (*shape, 3)) * [0.02, 0.02, 1.0])
    return layers, planes


def over(layers_rgba):
    light = np.zeros((*layers_rgba.shape[1:3], 3))
    for layer in layers_rgba[::-1].astype(np.float64):
        light = layer[..., 3:] * layer[..., :3] + (1 - layer[..., 3:]) * light
    return light


def test_without_blur_the_layers_are_composited():
    layers, planes = random_layers(0)
    sharp = composite_layers(layers, margin_px=MARGIN)
    np.testing.assert_allclose(
        sharp, over(np.asarray(layers))[MARGIN:-MARGIN, MARGIN:-MARGIN], atol=1e-6
    )
    np.testing.assert_allclose(draw(layers, planes, Lens(0.3, 0.0)), sharp, atol=1.2e-7)
    closed = render(layers, planes, Lens(0.3, 9.0), max_radius_px=0, margin_px=MARGIN)
    np.testing.assert_allclose(closed, sharp, atol=1.2e-7)


@pytest.mark.parametrize("aperture", [Disc(), Polygon(3, 0.2)])
@pytest.mark.parametrize("radius_px", [-4.0, 3.0, 1.25])
def test_a_point_of_light_becomes_the_aperture(aperture, radius_px):
    layers = jnp.ones((1, 17, 17, 4)).at[..., :3].set(0.0).at[0, 8, 8, :3].set(7.0)
    planes = jnp.float32([[0.0, 0.0, 1.0]])
    picture = render(
        layers, planes, Lens(1 - radius_px / 8, 8.0), aperture=aperture, max_radius_px=6.0
    )
    kernel = mixed_kernel(aperture, radius_px, 6.0, 8)
    np.testing.assert_allclose(picture, 7 * np.repeat(kernel[..., None], 3, -1), atol=4e-6)
    assert picture.min() >= 0


def test_flat_layers_are_blurred_one_by_one_and_composited():
    layers, _ = random_layers(1)
    planes = jnp.float32([[0, 0, 1.0], [0, 0, 0.5], [0, 0, 0.0]])
    # Radii 4, 0 and -4.
    kernels = [mixed_kernel(Disc(), radius, RADIUS, 5) for radius in (4.0, 0.0, -4.0)]
    blurred = []
    for layer, kernel in zip(np.asarray(layers, np.float64), kernels, strict=True):
        layer[..., :3] *= layer[..., 3:]
        total = np.zeros((VISIBLE, VISIBLE, 4))
        for dy in range(-5, 6):
            for dx in range(-5, 6):
                rows = slice(MARGIN - dy, MARGIN - dy + VISIBLE)
                columns = slice(MARGIN - dx, MARGIN - dx + VISIBLE)
                total += kernel[dy + 5, dx + 5] * layer[rows, columns]
        blurred.append(total)
    light = np.zeros((VISIBLE, VISIBLE, 3))
    for layer in blurred[::-1]:
        light = layer[..., :3] + (1 - layer[..., 3:]) * light
    np.testing.assert_allclose(draw(layers, planes, Lens(0.5, 8.0)), light, atol=3e-6)


def test_absent_layers_change_nothing():
    layers, planes = random_layers(2)
    absent = layers.at[1, ..., 3].set(0.0)
    kept = jnp.array([0, 2])
    with_absent = draw(absent, planes, Lens(0.2, 6.0))
    np.testing.assert_allclose(
        with_absent, draw(layers[kept], planes[kept], Lens(0.2, 6.0)), atol=2e-6
    )
    recoloured = absent.at[1, ..., :3].set(50.0)
    np.testing.assert_array_equal(draw(recoloured, planes, Lens(0.2, 6.0)), with_absent)


@pytest.mark.parametrize("plane", [[0.06, -0.03, 0.1], [0.0, 0.1, -0.4], [0.0, 0.0, 0.73]])
def test_an_opaque_layer_of_one_colour_stays_so_however_slanted(plane):
    layers = jnp.full((1, STORED, STORED, 4), 0.6).at[..., 3].set(1.0)
    picture = draw(layers, jnp.float32([plane]), Lens(0.3, 6.0))
    np.testing.assert_allclose(picture, 0.6, rtol=1e-5)


def test_the_photograph_of_a_steep_surface_is_that_of_its_layer():
    # The radius changes by 0.3 px a pixel, and so by several pixels within a kernel.
    y, x = np.mgrid[:64, :64]
    waves = 0.5 + 0.4 * np.sin(0.5 * x[..., None] + 0.3 * y[..., None] + np.arange(3))
    layers = jnp.float32(np.concatenate([waves, np.ones((64, 64, 1))], axis=-1)[None])
    plane = jnp.float32([[0.03, 0.0, 0.0]])
    image = jax.jit(functools.partial(composite_layers, margin_px=16))(layers)
    disparity = jax.jit(functools.partial(visible_disparity, margin_px=16))(layers[..., 3], plane)
    inner = slice(8, -8)
    for focus, least_decibel in ((0.0, 39.4), (0.5, 41.2), (1.0, 37.2)):
        lens = Lens(focus, 10.0)
        known = render(layers, plane, lens, max_radius_px=12.0, margin_px=16)
        picture = jitted_defocus(image, disparity, lens, max_radius_px=12.0)
        error = np.mean((picture - known)[inner, inner] ** 2)
        assert -10 * np.log10(error) > least_decibel


def test_the_plane_is_counted_from_the_visible_frame():
    layers, _ = random_layers(4)
    layers = layers.at[..., 3].set(1.0)
    planes = jnp.float32([[0.0625, 0.03125, -0.125]] * 3)
    disparity = visible_disparity(layers[..., 3], planes, margin_px=MARGIN)
    y, x = np.mgrid[:VISIBLE, :VISIBLE]
    np.testing.assert_array_equal(disparity, 0.0625 * x + 0.03125 * y - 0.125)


@settings(deadline=None, max_examples=6)
@given(st.integers(0, 1000), st.floats(-1, 1), st.floats(0, 9), st.floats(1e-3, 1e3))
def test_brightness_scales(seed, focus, blur, scale):
    layers, planes = random_layers(seed)
    lens = Lens(focus, blur)
    picture = draw(layers, planes, lens)
    brighter = draw(layers.at[..., :3].multiply(scale), planes, lens)
    np.testing.assert_allclose(brighter, picture * jnp.float32(scale), atol=4e-6 * scale)


def test_a_batch_is_its_examples_and_one_lens_may_serve_all():
    layers, planes = random_layers(5, 2, 2)
    lenses = Lens(jnp.float32([[0.0, 0.4], [-0.5, 0.9]]), jnp.float32([[3, 0], [6, 12]]))
    pictures = draw(layers, planes, lenses)
    shared = draw(layers, planes, Lens(0.5, 6.0))
    assert pictures.shape == (2, 2, VISIBLE, VISIBLE, 3)
    for index in np.ndindex(2, 2):
        alone = Lens(lenses.focus_disparity[index], lenses.blur_px[index])
        np.testing.assert_allclose(
            pictures[index], draw(layers[index], planes[index], alone), atol=4e-6
        )
        np.testing.assert_allclose(
            shared[index], draw(layers[index], planes[index], Lens(0.5, 6.0)), atol=4e-6
        )


# `make test`: less than the radius and more.
@pytest.mark.parametrize(
    "margin_px",
    [pytest.param(0, marks=pytest.mark.long), 2, pytest.param(4, marks=pytest.mark.long), 5],
)
def test_stored_margins_serve_first_and_edges_continue_after(margin_px):
    layers, planes = random_layers(6)
    core = layers[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
    edges = [(0, 0), (margin_px, margin_px), (margin_px, margin_px), (0, 0)]
    continued = jnp.pad(core, edges, mode="edge")
    picture = render(continued, planes, Lens(0.1, 6.0), max_radius_px=RADIUS, margin_px=margin_px)
    expected = render(core, planes, Lens(0.1, 6.0), max_radius_px=RADIUS)
    np.testing.assert_allclose(picture, expected, atol=3e-6)


def test_derivatives_are_those_of_central_differences():
    random = np.random.default_rng(10)
    layers, planes = (np.asarray(a, np.float64) for a in random_layers(7))
    probe = random.normal(size=(VISIBLE, VISIBLE, 3))
    with jax.enable_x64(True):

        def loss(layers, planes, focus, blur):
            picture = render_layers(
                layers,
                planes,
                Lens(focus, blur),
                aperture=Polygon(5),
                max_radius_px=RADIUS,
                margin_px=MARGIN,
            )
            return jnp.sum(picture * probe)

        arguments = [jnp.asarray(a) for a in (layers, planes, 0.137, 5.31)]
        run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))
        _, slopes = run(*arguments)
        for index, slope in enumerate(slopes):
            direction = jnp.asarray(random.normal(size=slope.shape))
            ends = []
            for step in (1e-7, -1e-7):
                moved = list(arguments)
                moved[index] = moved[index] + step * direction
                ends.append(run(*moved)[0])
            central = float((ends[0] - ends[1]) / 2e-7)
            assert abs(central) > 1e-3
            np.testing.assert_allclose(float(jnp.sum(slope * direction)), central, rtol=1e-5)


def test_visible_disparity_takes_the_nearest_solid_layer():
    alpha = jnp.float32([[0.5, 0.4, 0.4, 0.0], [0.9, 0.5, 0.3, 0.0], [1.0, 1.0, 0.45, 0.0]])
    planes = jnp.float32([[0, 0, 3], [0, 0, 2], [0, 0, 1]])
    disparity = visible_disparity(alpha[:, None, :], planes)
    # The third pixel has no solid layer: its most opaque one counts.
    np.testing.assert_array_equal(disparity, [[3, 2, 1, 3]])


@pytest.mark.parametrize(
    ("layers", "planes", "options", "message"),
    [
        ((2, 9, 9, 4), (2, 3), {"margin_px": 5}, "margin_px must be >= 0 and leave pixels of 9"),
        ((2, 9, 9, 4), (2, 3), {"margin_px": -1}, "margin_px must be >= 0 and leave pixels of 9"),
        ((2, 9, 9, 4), (2, 3), {"max_radius_px": -1.0}, "max_radius_px must be finite and >= 0"),
    ],
)
def test_bad_values_are_named(layers, planes, options, message):
    with pytest.raises(ValueError, match=message):
        render_layers(
            jnp.zeros(layers), jnp.zeros(planes), Lens(0.0, 1.0), **{"max_radius_px": 2.0} | options
        )
