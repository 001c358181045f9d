import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bokeh_jax.diffusion import flow


def draw(seed: int, shape=(3, 4, 5, 2)):
    keys = jax.random.split(jax.random.key(seed), 2)
    return tuple(jax.random.normal(key, shape, jnp.float32) for key in keys)


def test_interpolate_is_the_straight_line():
    x, z = draw(0)
    time = jnp.asarray([0.0, 0.25, 1.0], jnp.float32)
    x_t = np.asarray(flow.interpolate(x, z, time))
    np.testing.assert_array_equal(x_t[0], x[0])
    np.testing.assert_array_equal(x_t[2], z[2])
    np.testing.assert_allclose(x_t[1], 0.75 * np.asarray(x[1]) + 0.25 * np.asarray(z[1]), 1e-6)


def test_velocity_is_the_derivative_of_the_path():
    x, z = draw(1)
    time = jnp.asarray([0.1, 0.5, 0.9], jnp.float32)
    _, slope = jax.jvp(lambda t: flow.interpolate(x, z, t), (time,), (jnp.ones_like(time),))
    np.testing.assert_allclose(flow.velocity(x, z), slope, rtol=1e-6)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31 - 1), time=st.floats(0.0625, 1.0, width=32))
def test_conversions_invert_each_other(seed, time):
    x, z = draw(seed, (2, 3))
    t = jnp.full((2,), time, jnp.float32)
    x_t, v = flow.interpolate(x, z, t), flow.velocity(x, z)
    # The subtraction rounds at the size of x_t; dividing by t magnifies that.
    tolerance = 4e-6 / time
    np.testing.assert_allclose(flow.sample_from_velocity(x_t, v, t), x, atol=tolerance)
    np.testing.assert_allclose(flow.velocity_from_sample(x_t, x, t), v, atol=tolerance)
    np.testing.assert_allclose(flow.source_from_velocity(x_t, v, t), z, atol=tolerance)


def test_velocity_is_exact_down_to_the_floor_and_finite_below():
    x = jnp.zeros((4, 2), jnp.float32)
    x_t = jnp.full((4, 2), 0.5, jnp.float32)
    time = jnp.asarray([0.0, flow.TIME_FLOOR / 2, flow.TIME_FLOOR, 2 * flow.TIME_FLOOR])
    v = np.asarray(flow.velocity_from_sample(x_t, x, time))
    expected = 0.5 / np.asarray([1e-3, 1e-3, 1e-3, 2e-3])
    np.testing.assert_allclose(v, np.stack((expected, expected), axis=1), rtol=1e-6)
    v = flow.velocity_from_sample(x_t, x, time, time_floor=0.25)
    np.testing.assert_array_equal(v, np.full((4, 2), 2.0))


def test_source_kinds():
    reference, noise = draw(2)
    np.testing.assert_array_equal(flow.source("noise", reference, noise, 0.3), noise)
    expected = np.asarray(reference) + np.float32(0.3) * np.asarray(noise)
    np.testing.assert_allclose(flow.source("reference", reference, noise, 0.3), expected, rtol=1e-6)
    np.testing.assert_array_equal(flow.source("reference", reference, noise, 0.0), reference)


def test_bad_values_are_named():
    x, z = draw(3)
    time = jnp.ones((3,), jnp.float32)
    # Past the type hook, which refuses the name first.
    with pytest.raises(ValueError, match="source kind is 'blur'; allowed: noise, reference"):
        inspect.unwrap(flow.source)("blur", x, z)
    with pytest.raises(ValueError, match=r"noise_scale is -1.0; allowed: 0 or more"):
        flow.source("reference", x, z, -1.0)
    with pytest.raises(ValueError, match=r"time_floor is 0.0; allowed: more than 0"):
        flow.velocity_from_sample(x, z, time, time_floor=0.0)
