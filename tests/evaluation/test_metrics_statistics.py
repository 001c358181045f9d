import numpy as np
import pytest
from scipy.stats import norm

from bokeh_jax.evaluation.metrics import Mean, mean_with_interval
from bokeh_jax.evaluation.statistics import bootstrap_mean, paired_difference


@pytest.mark.parametrize("method", ["percentile", "BCa"])
def test_of_many_normal_values_the_interval_is_the_normal_one(method):
    # Quantiles in place of draws: mean 0 and no skew.
    values = 5.0 + 2.0 * norm.ppf((np.arange(400) + 0.5) / 400)
    mean, normal = (
        bootstrap_mean(values, method=method, num_resamples=10_000),
        mean_with_interval(values),
    )
    assert mean.mean == pytest.approx(5.0)
    assert mean.low == pytest.approx(normal.low, abs=0.05 * normal.half_width)
    assert mean.high == pytest.approx(normal.high, abs=0.05 * normal.half_width)
    assert mean.half_width == pytest.approx((mean.high - mean.low) / 2)


def test_of_skewed_values_the_interval_leans_and_still_covers_the_mean():
    rng = np.random.default_rng(1)
    means = [bootstrap_mean(rng.exponential(1.0, 40), num_resamples=500) for _ in range(300)]
    assert np.mean([mean.high - mean.mean for mean in means]) > 1.15 * np.mean(
        [mean.mean - mean.low for mean in means]
    )
    # 40 exponential values: BCa covers about 93 of 100.
    assert 0.90 < np.mean([mean.low <= 1.0 <= mean.high for mean in means]) < 0.97


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(2).exponential(1.0, 30)
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3)
    assert bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=4)


def test_what_was_not_measured_does_not_count():
    mean = bootstrap_mean(np.array([1.0, np.nan, 2.0, 4.0, np.inf]))
    assert (mean.mean, mean.count) == (pytest.approx(7 / 3), 3)
    with pytest.raises(ValueError, match="0 finite values"):
        bootstrap_mean(np.array([np.nan]))


def test_one_value_or_equal_values():
    assert bootstrap_mean(np.array([2.0])).high == float("inf")
    assert bootstrap_mean(np.full(5, 2.0)) == Mean(2.0, 0.0, 5, 2.0, 2.0)


def test_pairs_cancel_what_is_hard_for_all():
    rng = np.random.default_rng(4)
    hard = rng.normal(0.0, 10.0, 50)
    ours, theirs = hard + 1.0 + rng.normal(0, 0.2, 50), hard + rng.normal(0, 0.2, 50)
    gain = paired_difference(ours, theirs)
    assert gain.mean == pytest.approx((ours - theirs).mean())
    assert 0.8 < gain.low < gain.high < 1.2
    apart = bootstrap_mean(ours).mean - bootstrap_mean(theirs).high
    assert apart < 0 < gain.low
    with pytest.raises(ValueError, match="50 and 49"):
        paired_difference(ours, theirs[1:])


def test_a_symmetric_interval_needs_no_ends():
    mean = Mean(3.0, 0.5, 4)
    assert (mean.low, mean.high, str(mean)) == (2.5, 3.5, "3.00 ± 0.50")
