import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bokeh_jax.optics import Lens, in_focus_weights, render_defocus, stack


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 5.0))
def test_weights_are_the_softmax_of_sharpness(seed, softness_px):
    random = np.random.default_rng(seed)
    disparity = random.random((2, 4, 5), np.float32)
    focus, blur = random.random((2, 3), np.float32), 10 * random.random((2, 3), np.float32)
    weights = in_focus_weights(
        jnp.asarray(disparity), Lens(jnp.asarray(focus), jnp.asarray(blur)), softness_px=softness_px
    )
    radius = np.abs(
        blur[:, :, None, None] * (disparity[:, None] - focus[:, :, None, None]), dtype=np.float64
    )
    expected = np.exp(-radius / softness_px)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(weights, expected, rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)


def test_a_stack_of_two_focuses_recovers_the_sharp_picture_away_from_the_edge():
    random = np.random.default_rng(0)
    image = jnp.float32(random.random((16, 32, 3)))
    disparity = jnp.broadcast_to(jnp.float32(np.arange(32) >= 16), (16, 32))
    lenses = Lens(jnp.float32([0.0, 1.0]), 5.0)
    pictures = jnp.stack(
        [render_defocus(image, disparity, Lens(f, 5.0), max_radius_px=5.0) for f in (0.0, 1.0)]
    )
    blended = stack(pictures, in_focus_weights(disparity, lenses, softness_px=0.2))
    kept = np.r_[0:10, 22:32]
    np.testing.assert_allclose(blended[:, kept], image[:, kept], atol=2e-6)


def test_blend_weights_every_channel():
    images = jnp.arange(2 * 1 * 2 * 3, dtype=jnp.float32).reshape(2, 1, 2, 3)
    weights = jnp.float32([[[0.25, 1.0]], [[0.75, 0.0]]])
    np.testing.assert_allclose(stack(images, weights), [[[4.5, 5.5, 6.5], [3, 4, 5]]])


def test_bad_values_are_named():
    disparity = jnp.zeros((2, 4, 4))
    with pytest.raises(ValueError, match="softness_px must be positive, got 0"):
        in_focus_weights(disparity, Lens(jnp.zeros((2, 3)), 1.0), softness_px=0)
    for shape in ((3,), (3, 3), (2,)):
        with pytest.raises(
            ValueError, match=r"lenses must have the disparity's batch shape \(2,\)"
        ):
            in_focus_weights(disparity, Lens(jnp.zeros(shape), 1.0))
