import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bokeh_jax.diffusion.flow import per_example
from bokeh_jax.diffusion.samplers import METHODS, guide, guided, iterate_samples, sample
from bokeh_jax.diffusion.time_sampling import time_grid

START = jax.random.normal(jax.random.key(0), (3, 4, 2), jnp.float32)
TARGET = jax.random.normal(jax.random.key(1), (3, 4, 2), jnp.float32)


def straight(x, time):
    """The velocity from START to TARGET, the same everywhere."""
    return START - TARGET


def curved(x, time):
    """dx/dt = x (1 + t): x(0) = x(1) exp(−3/2)."""
    return x * (1.0 + per_example(time, x.ndim))


def curved_sample(x, time):
    return x - per_example(time, x.ndim) * curved(x, time)


CURVED_END = np.asarray(START, np.float64) * np.exp(-1.5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("num_steps", [1, 3, 8])
def test_straight_flows_are_followed_exactly(method, num_steps):
    x = sample(straight, START, time_grid(num_steps, 2.0), method=method)
    np.testing.assert_allclose(x, TARGET, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_one_step_of_a_sample_predictor_is_its_prediction_bit_for_bit(method):
    def predict(x, time):
        return jnp.sin(7.0 * x) + per_example(time, x.ndim)

    x = sample(predict, START, time_grid(1), method=method, prediction="sample")
    np.testing.assert_array_equal(x, predict(START, jnp.ones((3,), jnp.float32)))


@pytest.mark.parametrize("method", METHODS)
def test_the_last_step_of_many_ends_on_the_prediction(method):
    x = sample(lambda x, time: TARGET, START, time_grid(5), method=method, prediction="sample")
    np.testing.assert_array_equal(x, TARGET)


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2)])
def test_order_of_convergence(method, order):
    errors = []
    for num_steps in (8, 16, 32):
        x = sample(curved, START, time_grid(num_steps), method=method)
        errors.append(np.max(np.abs(np.asarray(x, np.float64) - CURVED_END)))
    rates = np.log2(np.asarray(errors[:-1]) / np.asarray(errors[1:]))
    np.testing.assert_allclose(rates, order, atol=0.15)


@pytest.mark.parametrize("prediction", ["velocity", "sample"])
def test_euler_against_a_loop(prediction):
    times = time_grid(6, 1.7)
    predict = curved if prediction == "velocity" else curved_sample
    x = np.asarray(START, np.float64)
    for t, t_next in zip(np.asarray(times)[:-1], np.asarray(times)[1:], strict=True):
        x = x + (float(t_next) - float(t)) * x * (1.0 + float(t))
    result = sample(predict, START, times, prediction=prediction)
    np.testing.assert_allclose(result, x, rtol=2e-5, atol=2e-6)


def test_heun_takes_velocities_from_samples():
    # The steps before the last agree with velocity prediction; stop at a positive time to see them.
    times = time_grid(6)[:4]
    by_velocity = sample(curved, START, jnp.append(times, 0.4), method="heun")
    by_sample = list(
        iterate_samples(
            curved_sample,
            START,
            jnp.append(jnp.append(times, 0.4), 0.0),
            method="heun",
            prediction="sample",
        )
    )[-2]
    np.testing.assert_allclose(by_sample, by_velocity, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("prediction", ["velocity", "sample"])
def test_iterating_yields_every_step_of_the_compiled_loop(method, prediction):
    predict = curved if prediction == "velocity" else curved_sample
    times = time_grid(4)
    steps = list(iterate_samples(predict, START, times, method=method, prediction=prediction))
    assert len(steps) == 4
    loop = jax.jit(
        lambda start: sample(predict, start, times, method=method, prediction=prediction)
    )
    np.testing.assert_allclose(steps[-1], loop(START), rtol=1e-6, atol=1e-7)
    # Steps before the last are the way there: the second is half of it, restarted from the first.
    restarted = iterate_samples(predict, steps[0], times[1:], method=method, prediction=prediction)
    np.testing.assert_array_equal(next(restarted), steps[1])


def test_predictors_see_the_time_of_every_example():
    seen = []

    def predict(x, time):
        seen.append(np.asarray(time))
        return x

    list(iterate_samples(predict, START, time_grid(2), method="heun"))
    expected = [[1.0] * 3, [0.5] * 3, [0.5] * 3, [0.0] * 3]
    np.testing.assert_array_equal(seen, expected)


def test_guidance():
    c, u = START, TARGET
    np.testing.assert_array_equal(guide(c, u, 1.0), c)
    np.testing.assert_allclose(guide(c, u, 0.0), u, atol=1e-6)
    expected = np.asarray(u) + 3.0 * (np.asarray(c) - np.asarray(u))
    np.testing.assert_allclose(guide(c, u, 3.0), expected, rtol=1e-5, atol=1e-6)
    scales = jnp.asarray([1.0, 0.0, 3.0], jnp.float32)
    by_example = guide(c, u, scales)
    for i, scale in enumerate((1.0, 0.0, 3.0)):
        np.testing.assert_allclose(by_example[i], guide(c, u, scale)[i], atol=1e-6)


def test_guided_predictors():
    time = jnp.full((3,), 0.5, jnp.float32)
    predict = guided(curved, straight, 2.5)
    expected = guide(curved(START, time), straight(START, time), 2.5)
    np.testing.assert_array_equal(predict(START, time), expected)
    assert guided(curved, straight, 1.0) is curved


def test_bad_values_are_named():
    with pytest.raises(ValueError, match="times has 1 entries; allowed: 2 or more"):
        sample(straight, START, time_grid(1)[:1])
    with pytest.raises(ValueError, match="times has 1 entries; allowed: 2 or more"):
        iterate_samples(straight, START, time_grid(1)[:1])
    # Past the type hook, which refuses the names first.
    unchecked = inspect.unwrap(sample)
    with pytest.raises(ValueError, match="sampling method is 'rk4'; allowed: euler, heun"):
        unchecked(straight, START, time_grid(1), method="rk4")
    with pytest.raises(ValueError, match="prediction is 'noise'; allowed: velocity, sample"):
        unchecked(straight, START, time_grid(1), prediction="noise")
