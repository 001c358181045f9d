import math
from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bokeh_jax.diffusion.time_sampling import (
    TimeSampling,
    sample_time,
    shift_for_tokens,
    shift_time,
    time_grid,
)

PROBABILITIES = np.asarray([0.05, 0.25, 0.5, 0.75, 0.95])
NUM_DRAWS = 40_000


def quantile_error(times, expected):
    """Largest distance of the empirical distribution at the expected quantiles, in deviations."""
    below = np.mean(np.asarray(times)[:, None] <= expected[None, :], axis=0)
    deviation = np.sqrt(PROBABILITIES * (1 - PROBABILITIES) / NUM_DRAWS)
    return np.max(np.abs(below - PROBABILITIES) / deviation)


def logistic(u):
    return 1 / (1 + np.exp(-u))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_uniform_quantiles(shift):
    times = sample_time(TimeSampling("uniform", shift=shift), jax.random.key(0), (NUM_DRAWS,))
    assert times.dtype == jnp.float32
    expected = shift * PROBABILITIES / (1 + (shift - 1) * PROBABILITIES)
    assert quantile_error(times, expected) < 4


@pytest.mark.parametrize(("mean", "std", "shift"), [(0.0, 1.0, 1.0), (-0.6, 0.7, 2.0)])
def test_logit_normal_quantiles(mean, std, shift):
    sampling = TimeSampling("logit_normal", mean=mean, std=std, shift=shift)
    times = sample_time(sampling, jax.random.key(1), (NUM_DRAWS,))
    normal = np.asarray([NormalDist(mean, std).inv_cdf(p) for p in PROBABILITIES])
    assert quantile_error(times, logistic(normal + math.log(shift))) < 4


def test_shift_by_tokens_is_fluxs_line():
    # exp(mu) / (exp(mu) + 1/t − 1) with mu on the line through (256, 0.5) and (4096, 1.15).
    for num_tokens, mu in ((256, 0.5), (2176, 0.825), (4096, 1.15)):
        assert shift_for_tokens(num_tokens) == pytest.approx(math.exp(mu), rel=1e-12)
    plain = sample_time(TimeSampling("uniform", shift=2.0), jax.random.key(2), (64,))
    by_tokens = TimeSampling("uniform", shift=2.0, shift_by_tokens=True)
    shifted = sample_time(by_tokens, jax.random.key(2), (64,), num_tokens=2176)
    t = np.asarray(plain, np.float64)
    expected = math.exp(0.825) / (math.exp(0.825) + 1 / t - 1)
    np.testing.assert_allclose(shifted, expected, rtol=1e-5)


@settings(deadline=None, max_examples=40)
@given(
    times=st.lists(st.floats(0, 1, width=32, allow_subnormal=False), min_size=1, max_size=5),
    a=st.floats(0.2, 5),
    b=st.floats(0.2, 5),
)
def test_shifts_keep_the_ends_and_compose(times, a, b):
    t = jnp.asarray(times, jnp.float32)
    np.testing.assert_allclose(
        shift_time(shift_time(t, a), b), shift_time(t, a * b), rtol=1e-5, atol=1e-7
    )
    ends = shift_time(jnp.asarray([0.0, 1.0], jnp.float32), a)
    np.testing.assert_array_equal(ends, [0.0, 1.0])
    np.testing.assert_array_equal(shift_time(t, 1.0), t)


def test_draws_are_those_of_their_keys():
    sampling = TimeSampling()
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(3), i))(jnp.arange(6))
    times = jax.vmap(lambda key: sample_time(sampling, key))(keys)
    assert times.shape == (6,)
    np.testing.assert_array_equal(times[4], sample_time(sampling, keys[4]))
    assert len(np.unique(times)) == 6


@pytest.mark.parametrize("shift", [1.0, 3.0, 0.4])
def test_time_grid(shift):
    grid = time_grid(8, shift)
    assert grid.dtype == jnp.float32
    assert grid[0] == 1.0
    assert grid[-1] == 0.0
    even = np.arange(8, -1, -1) / 8
    np.testing.assert_allclose(grid, shift * even / (1 + (shift - 1) * even), rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TimeSampling(std=0.0), "time std is 0.0; allowed: more than 0"),
        (lambda: TimeSampling(mean=math.inf), "time mean is inf; allowed: finite numbers"),
        (lambda: TimeSampling(shift=-2.0), "time shift is -2.0; allowed: more than 0"),
        (lambda: time_grid(0), "num_steps is 0; allowed: 1 or more"),
        (lambda: time_grid(2, 0.0), "time shift is 0.0; allowed: more than 0"),
        (lambda: shift_for_tokens(0), "num_tokens is 0; allowed: 1 or more"),
        (
            lambda: sample_time(TimeSampling(shift_by_tokens=True), jax.random.key(0)),
            "num_tokens is None; shift_by_tokens needs",
        ),
    ],
)
def test_bad_values_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_an_unknown_kind_is_named():
    # Past the type hook, which refuses the name first.
    sampling = object.__new__(TimeSampling)
    object.__setattr__(sampling, "kind", "cosine")
    with pytest.raises(ValueError, match="time kind is 'cosine'; allowed: uniform, logit_normal"):
        sampling.__post_init__()
