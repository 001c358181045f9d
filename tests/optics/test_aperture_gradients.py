"""Derivatives with respect to the opening: its blades, brightness, squeeze, rim and picture."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mixed_kernel import zone_kernels
from scipy.optimize import minimize

from bokeh_jax.optics import (
    CatEye,
    Disc,
    KernelImage,
    Lens,
    Polygon,
    Ring,
    Squeezed,
    render_layers,
    render_radius,
    squeezed,
)
from bokeh_jax.optics.aperture import is_point_symmetric
from bokeh_jax.optics.layer_kernels import (
    interpolating_kernel,
    kernel_half_size_px,
    slab_kernels,
)
from bokeh_jax.optics.layer_plan import plan_layers

# Exact in float32, in which NumPy pictures are kept.
PICTURE = np.float32(np.random.default_rng(0).uniform(0.2, 1.0, (5, 4)))


def picture(level):
    """A picture with one pixel given: always a JAX array."""
    return KernelImage.from_array(jnp.asarray(PICTURE, float).at[1, 2].set(level))


# One field each, at values where no vertex touches a line between pixels: second derivatives are
# infinite there, and central differences of no use.
SHAPES = {
    "rotation": (lambda a: Polygon(5, a, 0.3), 0.37),
    "roundness": (lambda a: Polygon(6, 0.37, a), 0.3),
    "rim": (lambda a: Ring(Disc(), a, 2.5, 0.41), 0.3),
    "power": (lambda a: Ring(Disc(), 0.3, a, 0.0), 2.5),
    "hole": (lambda a: Ring(Polygon(5, 0.1), 0.3, 2.5, a), 0.41),
    "squeeze": (lambda a: Squeezed(Polygon(5, 0.3), a), 0.73),
    "stretch": (lambda a: Squeezed(Ring(hole=0.31), a), 1.37),
    "amount": (lambda a: CatEye(Squeezed(Disc(), 0.8), a, 2), 0.57),
    "amount of a picture": (lambda a: CatEye(KernelImage.from_array(PICTURE), a, 2), 0.57),
    "pixel": (picture, 0.75),
    "pixel aspect": (lambda a: squeezed(KernelImage.from_array(PICTURE), a), 0.73),
}


def kernels(aperture):
    """Kernels at half the resolution, on both sides, from two sizes of sub-pixels."""
    plan = plan_layers(9.0)
    slabs = (plan.far_slabs(2)[0], plan.near_slabs(3)[0])
    return slab_kernels(aperture, slabs, 1, kernel_half_size_px(slabs, 1), (20, 30))


def central_difference(function, value, step):
    return (function(value + step) - function(value - step)) / (2 * step)


# `make test`: of the fields of blades, rings and rims all slopes are looked at once more below, in
# one program (`ring_of_blades`).
IN_SHORT = ("stretch", "amount of a picture", "pixel", "pixel aspect")


@pytest.mark.parametrize(
    "name",
    [name if name in IN_SHORT else pytest.param(name, marks=pytest.mark.long) for name in SHAPES],
)
def test_kernels_and_their_slopes_are_those_of_constants(name):
    make, value = SHAPES[name]
    with jax.enable_x64(True):
        known = np.asarray(kernels(make(value)))
        probe = np.random.default_rng(1).normal(size=known.shape)

        def seen(parameter):
            traced = kernels(make(parameter))
            return jnp.sum(probe * traced), traced

        (_, traced), slope = jax.jit(jax.value_and_grad(seen, has_aux=True))(value)
        # Solving for coarse kernels makes rounding up to 1e7 times larger.
        np.testing.assert_allclose(traced, known, rtol=0, atol=1e-9 * known.max())
        # Nodes that a slab lacks are zeros.
        sums = traced.sum(axis=(-2, -1))[:, :, 0]
        np.testing.assert_allclose(sums, [[1, 1, 1, 1], [1, 0, 0, 0]], atol=1e-12)
        central = central_difference(lambda v: np.sum(probe * kernels(make(v))), value, 1e-5)
        assert abs(slope) > 1e-3
        np.testing.assert_allclose(slope, central, rtol=1e-4)


def ring_of_blades(parameters):
    """Every field of all shapes but the picture."""
    rotation_rad, roundness, rim, power, hole, squeeze, amount = parameters
    ring = Ring(Polygon(5, rotation_rad, roundness), rim, power, hole)
    return CatEye(Squeezed(ring, squeeze), amount, 2)


@functools.cache
def ring_slopes():
    """Slopes in float32 of a weighted sum of kernels, compiled once."""

    def seen(parameters, probe):
        return jnp.sum(probe * ring_kernels(parameters))

    return jax.jit(jax.grad(seen))


def ring_kernels(parameters):
    return zone_kernels(ring_of_blades(parameters), np.array([-2.2, 1.3]), 4, (20, 30))


ORDINARY = [0.37, 0.3, 0.4, 2.5, 0.41, 0.73, 0.57]


def test_slopes_in_float32():
    probe = np.float32(np.random.default_rng(2).normal(size=(2, 4, 9, 9)))
    slopes = ring_slopes()(ORDINARY, probe)
    for index, slope in enumerate(slopes):

        def seen(value, index=index):
            moved = [*ORDINARY[:index], value, *ORDINARY[index + 1 :]]
            return np.sum(probe * ring_kernels(moved))

        assert slope.dtype == jnp.float32
        np.testing.assert_allclose(
            slope, central_difference(seen, ORDINARY[index], 1e-5), rtol=1e-2
        )


@pytest.mark.parametrize("roundness", [0.0, 1.0])
def test_slopes_are_finite_at_the_ends_of_the_ranges(roundness):
    probe = np.float32(np.random.default_rng(3).normal(size=(2, 4, 9, 9)))
    slopes = ring_slopes()([0.0, roundness, 0.0, 2.5, 0.0, 1.0, 0.0], probe)
    assert np.isfinite(slopes).all()


def test_a_vertex_just_before_a_line_counts_to_one_pixel():
    """In float32 a vertex of this polygon lies an ulp from a line between sub-pixels."""
    probe = np.random.default_rng(0).normal(size=(11, 11))
    slopes = []
    for is_x64 in (False, True):
        with jax.enable_x64(is_x64):
            weight = jnp.asarray(probe, float)

            def seen(turn, weight=weight):
                return jnp.sum(weight * interpolating_kernel(Polygon(5, turn, 0.3), 1.0, 5))

            slopes.append(float(jax.jit(jax.grad(seen))(0.35)))
    np.testing.assert_allclose(slopes[0], slopes[1], rtol=1e-2)


def test_a_mirrored_opening_has_no_slope_along_its_turn():
    line = np.float32(np.random.default_rng(4).normal(size=9))
    # Even in y and the same for all zones, as the opening and its rims are.
    probe = np.broadcast_to(np.cos(np.arange(9) - 4)[:, None] * line, (2, 4, 9, 9))
    upright = [0.0, *ORDINARY[1:]]
    slopes = ring_slopes()(upright, np.float32(probe))
    turned = ring_slopes()(ORDINARY, np.float32(probe))
    assert abs(slopes[0]) < 1e-4
    assert abs(turned[0]) > 1e-3


def test_the_slope_at_a_kink_is_the_mean_of_both_sides():
    probe = np.random.default_rng(5).normal(size=(11, 11))

    def seen(squeeze):
        return (probe * interpolating_kernel(Squeezed(Disc(), squeeze), -3.3, 5)).sum()

    slope = jax.jit(jax.grad(seen))(1.0)
    np.testing.assert_allclose(slope, central_difference(seen, 1.0, 1e-4), rtol=1e-2)


def squared_error(parameters, image, radius, target):
    rotation_rad, roundness, amount = parameters
    aperture = CatEye(Polygon(5, rotation_rad, roundness), amount, 2)
    picture = render_radius(image, radius, aperture=aperture, max_radius_px=2.5)
    return jnp.sum((picture - target) ** 2), picture


@functools.cache
def value_and_slopes(is_x64):
    """Compiled once for each precision."""
    with jax.enable_x64(is_x64):
        # The emitter that conftest.py turns off rounds less: differences in float32 need that.
        return jax.jit(
            jax.value_and_grad(squared_error, has_aux=True),
            compiler_options={"xla_cpu_use_fusion_emitters": True},
        )


def scene():
    random = np.random.default_rng(6)
    image, target = random.random((12, 12, 3)), random.random((12, 12, 3))
    radius = np.where(np.arange(12) < 5, 1.9, -2.3) + 0.1 * random.random((12, 1))
    return image, radius, target


@pytest.mark.parametrize(
    ("is_x64", "step", "tolerance"),
    # `make test`: the program in float32, which the tests below have in common.
    [pytest.param(True, 1e-6, 1e-4, marks=pytest.mark.long), (False, 1e-2, 1e-2)],
)
def test_slopes_of_the_renderer_are_central_differences(is_x64, step, tolerance):
    values = [0.37, 0.4, 0.57]
    with jax.enable_x64(is_x64):
        arrays = [jnp.asarray(array, float) for array in scene()]
        run = value_and_slopes(is_x64)
        _, slopes = run(values, *arrays)
        for index, slope in enumerate(slopes):

            def seen(value, index=index):
                moved = [*values[:index], value, *values[index + 1 :]]
                return float(run(moved, *arrays)[0][0])

            central = central_difference(seen, values[index], step)
            assert abs(central) > 1e-2
            np.testing.assert_allclose(slope, central, rtol=tolerance)


def test_a_constant_picture_says_nothing_of_the_opening():
    _, radius, target = (np.float32(array) for array in scene())
    image = np.full((12, 12, 3), 0.7, np.float32)
    (_, picture), slopes = value_and_slopes(False)([0.37, 0.4, 0.57], image, radius, target)
    np.testing.assert_allclose(picture, 0.7, rtol=1e-5)
    np.testing.assert_allclose(slopes, 0, atol=1e-4)


def test_descent_finds_the_blades_of_a_blurred_light():
    image = np.zeros((12, 12, 3), np.float32)
    image[5, 6] = 50.0
    radius = np.full((12, 12), -2.5, np.float32)
    run = value_and_slopes(False)
    (_, target), _ = run([0.5, 0.4, 0.0], image, radius, image)

    def loss(parameters):
        (error, _), slopes = run([*map(float, parameters), 0.0], image, radius, target)
        return float(error), np.array(slopes[:2], np.float64)

    found = minimize(loss, [0.25, 0.7], jac=True, method="L-BFGS-B", bounds=[(-1, 1), (0, 1)]).x
    np.testing.assert_allclose(found, [0.5, 0.4], rtol=0.01)


@pytest.mark.parametrize("blades", [5, pytest.param(6, marks=pytest.mark.long)])
def test_layers_have_slopes_too(blades):
    """Of odd blades both sides of the focus are blurred apart, whatever the roundness."""
    random = np.random.default_rng(7)
    layers = random.random((2, 9, 9, 4))
    layers[..., 3] = random.random((2, 9, 9)) > [[[0.5]], [[0.0]]]
    probe = random.random((9, 9, 3))
    planes = np.array([[0.01, 0, 1.0], [0, 0.01, 0.0]])
    with jax.enable_x64(True):

        def seen(roundness):
            picture = render_layers(
                jnp.asarray(layers),
                jnp.asarray(planes),
                Lens(0.4, 2.5),
                aperture=Polygon(blades, 0.2, roundness),
                max_radius_px=2.0,
            )
            return jnp.sum(probe * picture)

        slope = jax.jit(jax.grad(seen))(0.3)
        # The kernels of known openings are constants.
        central = central_difference(seen, 0.3, 1e-5)
        np.testing.assert_allclose(slope, central, rtol=1e-4)


def test_point_symmetry_is_not_claimed_where_it_is_not_known():
    answers = {}

    def ask(value):
        answers["odd"] = is_point_symmetric(Polygon(5, roundness=value))
        answers["even"] = is_point_symmetric(Squeezed(Ring(Polygon(6, value, value)), value))
        answers["picture"] = is_point_symmetric(KernelImage.from_array(jnp.ones((3, 3)) * value))
        return value

    jax.jit(ask)(0.5)
    assert answers == {"odd": False, "even": True, "picture": False}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: Polygon(5, roundness=jnp.float32(1.5)),
            r"roundness must lie in \[0, 1\], got 1.5",
        ),
        (lambda: KernelImage.from_array(-jnp.ones((2, 2))), "not negative"),
        (lambda: KernelImage(jnp.ones((2, 2)), 2, 3), r"levels must be 2 x 3, got \(2, 2\)"),
    ],
)
def test_bad_values_are_named_where_they_are_known(build, message):
    with pytest.raises(ValueError, match=message):
        build()
