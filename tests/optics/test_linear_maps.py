import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import convolve2d

from bokeh_jax.optics.hidden import _neighbour_mean
from bokeh_jax.optics.linear import channels, from_channels, kept
from bokeh_jax.optics.local_color import collect
from bokeh_jax.optics.resample import double, halve, quarters
from bokeh_jax.optics.small_kernels import small_kernel_taps, sum_taps


def normal(seed, shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


MAPS = {
    "halve": (halve, (2, 6, 8)),
    "quarters": (lambda x: jnp.stack(quarters(x)), (2, 4, 6)),
    "double": (double, (2, 3, 5)),
    "double a line": (double, (2, 1, 4)),
    "neighbours": (_neighbour_mean, (2, 5, 7)),
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


def test_what_is_kept_is_the_function_and_nan_stays_nan():
    assert kept(lambda x: 2 * x, jnp.float32([1, -2])).tolist() == [2, -4]
    assert jnp.isnan(kept(lambda x: 2 * x, jnp.float32([jnp.nan, 1]))).all()


def sums_of_taps():
    random = np.random.default_rng(0)
    kernels = random.random((2, 5, 5)).astype(np.float32)
    kernels[:, 0, 0] = 0
    taps = small_kernel_taps(kernels[None, :, None])
    layers = tuple(tuple(normal(3 * n + p, (1, 12, 13)) for p in range(3)) for n in range(2))
    return kernels, taps, layers


def test_sums_of_taps_are_convolutions_and_their_transpose():
    kernels, taps, layers = sums_of_taps()
    assert len(taps) == 24

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
    assert small_kernel_taps(np.ones((1, 1, 1, 8, 8))) is None
    assert small_kernel_taps(np.ones((1, 1, 2, 3, 3))) is None
    assert small_kernel_taps(jnp.ones((1, 1, 1, 3, 3))) is None


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
