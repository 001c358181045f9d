import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.interpolate import BSpline
from scipy.ndimage import maximum_filter
from scipy.signal import convolve2d

from bokeh_jax.optics.hidden import _neighbour_mean
from bokeh_jax.optics.linear import channels, from_channels, kept, stepwise, unstack
from bokeh_jax.optics.local_color import collect
from bokeh_jax.optics.matting import highest_of_neighbours
from bokeh_jax.optics.resample import double, double_smoothly, halve, quarters, shrink
from bokeh_jax.optics.small_kernels import small_kernel_taps, sum_taps


def normal(seed, shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


MAPS = {
    "halve": (halve, (2, 6, 8)),
    "quarters": (lambda x: jnp.stack(quarters(x)), (2, 4, 6)),
    "double": (double, (2, 3, 5)),
    "double a line": (double, (2, 1, 4)),
    "double smoothly": (double_smoothly, (2, 3, 5)),
    "shrink": (shrink, (2, 6, 8)),
    "shrink a line": (shrink, (2, 2, 8)),
    "neighbours": (_neighbour_mean, (2, 5, 7)),
    "unstack": (lambda x: 3 * jnp.stack(unstack(x)), (2, 3, 4)),
    "channels": (lambda x: 2 * jnp.stack(channels(x)), (2, 3, 4, 5)),
}


@pytest.mark.parametrize("name", MAPS)
def test_transposes_are_those_of_the_maps(name):
    linear, shape = MAPS[name]
    result, pull = jax.vjp(linear, normal(0, shape))
    cotangent, direction = normal(1, result.shape), normal(2, shape)
    expected = jnp.vdot(linear(direction), cotangent)
    np.testing.assert_allclose(jnp.vdot(direction, pull(cotangent)[0]), expected, rtol=1e-4)


def test_doubling_is_bilinear_interpolation_with_replicated_edges():
    planes = normal(0, (1, 2, 5, 6))
    expected = jax.image.resize(planes, (1, 2, 10, 12), "bilinear")
    np.testing.assert_allclose(double(planes), expected, atol=1e-6)
    np.testing.assert_allclose(from_channels(channels(planes)), planes)


def test_halving_takes_means_of_blocks():
    planes = normal(0, (2, 4, 6))
    expected = np.asarray(planes).reshape(2, 2, 2, 3, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(halve(planes), expected, atol=1e-6)


def test_shrinking_is_the_transpose_of_doubling_with_unit_sums():
    planes = normal(0, (6, 8))
    weights = np.array([1, 3, 3, 1]) / 8
    expected = convolve2d(np.asarray(planes), np.outer(weights, weights), "valid")[1::2, 1::2]
    np.testing.assert_allclose(shrink(planes)[1:-1, 1:-1], expected, atol=1e-6)
    np.testing.assert_allclose(shrink(jnp.ones((6, 8))), np.ones((3, 4)), atol=1e-6)


def test_smooth_doubling_samples_the_cubic_spline_of_its_pixels():
    planes = np.random.default_rng(0).normal(size=(7, 9))
    lines = []
    for size in planes.shape:
        # A fine pixel lies a quarter of a coarse one beside its coarse pixel's middle.
        places = (np.arange(2 * size) - 0.5) / 2
        nodes = np.arange(-2, size + 2)
        basis = BSpline.basis_element([-2, -1, 0, 1, 2], extrapolate=False)
        weights = np.nan_to_num(basis(places[:, None] - nodes))
        # Beyond the edges the edge pixels are repeated.
        line = np.zeros((2 * size, size))
        np.add.at(line.T, np.clip(nodes, 0, size - 1), weights.T)
        lines.append(line)
    expected = lines[0] @ planes @ lines[1].T
    np.testing.assert_allclose(double_smoothly(jnp.float32(planes)), expected, atol=1e-5)


def test_the_highest_of_neighbours_and_its_slope():
    plane = np.random.default_rng(0).integers(0, 4, (6, 7)).astype(np.float32)
    expected = maximum_filter(plane, 3, mode="nearest")
    highest, pull = jax.vjp(highest_of_neighbours, jnp.asarray(plane))
    np.testing.assert_array_equal(highest, expected)
    gains = np.random.default_rng(1).normal(size=(6, 7)).astype(np.float32)
    slopes = np.zeros((6, 7))
    for y, x in np.ndindex(6, 7):
        around = [
            (v, u)
            for v, u in np.ndindex(6, 7)
            if max(abs(v - y), abs(u - x)) <= 1 and plane[v, u] == expected[y, x]
        ]
        for v, u in around:
            slopes[v, u] += gains[y, x] / len(around)
    np.testing.assert_allclose(pull(jnp.asarray(gains))[0], slopes, atol=1e-5)


def test_a_step_has_the_values_and_slopes_of_its_function():
    def function(x, pair):
        return jnp.sin(x) * pair[0], x * pair[1] ** 2

    arguments = (normal(0, (3, 4)), (normal(1, (3, 4)), normal(2, (3, 4))))
    cotangents = (normal(3, (3, 4)), normal(4, (3, 4)))
    (result, pull), (expected, expected_pull) = (
        jax.vjp(run, *arguments) for run in (stepwise(function), function)
    )
    for found, wanted in (
        (result, expected),
        (pull(cotangents), expected_pull(cotangents)),
        (stepwise(function)(*arguments), expected),
    ):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6), found, wanted)


def test_what_is_kept_is_the_function_and_nan_stays_nan():
    assert kept(lambda x: 2 * x, jnp.float32([1, -2])).tolist() == [2, -4]
    assert jnp.isnan(kept(lambda x: 2 * x, jnp.float32([jnp.nan, 1]))).all()


def sums_of_taps():
    random = np.random.default_rng(0)
    kernels = random.random((2, 5, 5)).astype(np.float32)
    kernels[:, 0, 0] = 0
    # Weights that occur more than once, as inside an opening.
    kernels[:, 1:4, 1:4] = np.float32([[[0.25]], [[0.5]]])
    taps = small_kernel_taps(kernels[None, :, None])
    layers = tuple(tuple(normal(3 * n + p, (1, 12, 13)) for p in range(3)) for n in range(2))
    return kernels, taps, layers


def test_sums_of_taps_are_convolutions_and_their_transpose():
    kernels, taps, layers = sums_of_taps()
    # In either kernel the middle is one group, and the other 15 taps are one each.
    assert [sorted(map(len, groups)) for groups in taps] == [[1] * 15 + [9]] * 2

    def sums(layers):
        return jnp.stack(sum_taps(layers, jnp.asarray(kernels), taps, (8, 9)))

    result, pull = jax.vjp(sums, layers)
    for plane in range(3):
        expected = sum(
            convolve2d(np.asarray(layers[n][plane][0]), kernels[n], "valid") for n in range(2)
        )
        np.testing.assert_allclose(result[plane, 0], expected, atol=2e-5)
    cotangent = normal(9, result.shape)
    products = jax.tree.map(jnp.vdot, pull(cotangent)[0], layers)
    np.testing.assert_allclose(
        sum(jax.tree.leaves(products)), jnp.vdot(result, cotangent), rtol=1e-4
    )


def test_kernels_that_are_wide_or_change_or_are_traced_have_no_taps():
    assert small_kernel_taps(np.ones((1, 6, 1, 9, 9))) is None
    assert small_kernel_taps(np.ones((1, 5, 1, 9, 9))) is not None
    assert small_kernel_taps(np.ones((1, 1, 2, 3, 3))) is None
    assert small_kernel_taps(jnp.ones((1, 1, 1, 3, 3))) is None


def test_taps_are_grouped_only_where_all_kernels_agree():
    first, second = np.ones((3, 3)), np.arange(9.0).reshape(3, 3)
    (groups,) = small_kernel_taps(np.stack([first, second])[:, None, None])
    assert len(groups) == 9
    (groups,) = small_kernel_taps(np.stack([first, 0 * first])[:, None, None])
    assert [len(group) for group in groups] == [9]


def test_collected_colours_are_the_sums_over_neighbours():
    values, radius = (normal(0, (1, 6, 7)),), normal(1, (1, 6, 7))
    asked = normal(2, (1, 6, 7))
    (found,) = collect(values, radius, asked, 1.5)
    expected = np.zeros((6, 7))
    for y, x in np.ndindex(6, 7):
        for v, u in np.ndindex(6, 7):
            dy, dx = v - y, u - x
            if max(abs(dy), abs(dx)) <= 2:
                alike = max(0, 1 - abs(radius[0, v, u] - asked[0, y, x]) / 1.5)
                expected[y, x] += values[0][0, v, u] * alike / (1 + dy**2 + dx**2)
    np.testing.assert_allclose(found[0], expected, atol=1e-5)


def test_slopes_of_collected_colours_are_those_of_central_differences():
    with jax.enable_x64(True):
        random = np.random.default_rng(3)
        planes = [jnp.asarray(random.normal(size=(1, 6, 7))) for _ in range(4)]
        probe = random.normal(size=(2, 1, 6, 7))

        def loss(red, green, radius, asked):
            return jnp.sum(jnp.stack(collect((red, green), radius, asked, 2.0)) * probe)

        slopes = jax.grad(loss, argnums=(0, 1, 2, 3))(*planes)
        for index, slope in enumerate(slopes):
            direction = random.normal(size=(1, 6, 7))
            ends = []
            for step in (1e-6, -1e-6):
                moved = list(planes)
                moved[index] = moved[index] + step * direction
                ends.append(loss(*moved))
            central = (ends[0] - ends[1]) / 2e-6
            np.testing.assert_allclose(jnp.sum(slope * direction), central, rtol=1e-6)
