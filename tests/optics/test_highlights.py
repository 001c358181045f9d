import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bokeh_jax.optics import expand_highlights, render_radius


def grey(values):
    return jnp.repeat(jnp.float32(values)[:, None], 3, axis=1)[None]


def test_nothing_changes_below_the_threshold_and_clipped_light_is_multiplied():
    low = jnp.float32(np.random.default_rng(0).uniform(0, 0.7, (4, 5, 3)))
    np.testing.assert_array_equal(expand_highlights(low, 8.0, threshold=0.7), low)
    expanded = expand_highlights(grey([1.0, 1.5]), 8.0, threshold=0.7)
    np.testing.assert_allclose(expanded[0, :, 0], [8.0, 12.0], rtol=1e-6)
    half_way = expand_highlights(grey([0.85]), 8.0, threshold=0.7)
    np.testing.assert_allclose(half_way, 0.85 * 4.5, rtol=1e-5)
    same = jnp.float32(np.random.default_rng(1).uniform(0, 2, (4, 5, 3)))
    np.testing.assert_array_equal(expand_highlights(same, 1), same)


def test_order_and_hue_are_kept():
    rising = np.linspace(0.0, 1.4, 300)
    assert np.all(np.diff(np.asarray(expand_highlights(grey(rising), 20.0))[0, :, 0]) > 0)
    lamp = jnp.float32([[[1.0, 0.6, 0.1]]])
    expanded = np.asarray(expand_highlights(lamp, 5.0))
    np.testing.assert_allclose(expanded, 5 * lamp, rtol=1e-6)


def test_slopes_are_continuous_at_both_ends():
    slope = jax.vmap(
        jax.grad(lambda x: expand_highlights(jnp.full((1, 1, 3), x), 6.0, threshold=0.6)[0, 0, 0])
    )
    below, above, inside, clipped = slope(jnp.float32([0.5999, 0.6001, 0.9999, 1.0001]))
    np.testing.assert_allclose([below, above], 1.0, atol=0.02)
    np.testing.assert_allclose([inside, clipped], 6.0, atol=0.05)
    by_gain = jax.grad(lambda gain: jnp.sum(expand_highlights(grey([0.5, 1.0]), gain)))
    np.testing.assert_allclose(by_gain(jnp.float32(2.0)), 3.0, rtol=1e-5)


def test_a_clipped_light_becomes_a_disc_as_bright_as_the_gain_says():
    image = np.full((15, 15, 3), 0.1, np.float32)
    image[7, 7] = 1.0
    radius = np.full((15, 15), -3.0, np.float32)
    render = jax.jit(functools.partial(render_radius, max_radius_px=3.0))
    dull = render(image, radius)[7, 7, 0]
    bright = render(np.asarray(expand_highlights(jnp.asarray(image), 9.0)), radius)[7, 7, 0]
    height = 1 / (9 * math.pi)
    np.testing.assert_allclose(bright - dull, 8.0 * height, rtol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gain": 0.5}, "gain must be finite and >= 1, got 0.5"),
        ({"gain": math.nan}, "gain must be finite and >= 1, got nan"),
        ({"gain": 2.0, "threshold": 1.0}, r"threshold must lie in \[0, 1\), got 1.0"),
    ],
)
def test_bad_values_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        expand_highlights(grey([0.5]), **options)
