import jax
import jax.numpy as jnp
import numpy as np

from bokeh_jax.training.state import apply_gradients, create_state


def test_the_average_takes_the_updated_parameters(tiny):
    """ema ← β ema + (1 − β) θ of the *new* θ, with β = min(0.9, (1 + n) / (10 + n)) at update n."""
    state = jax.jit(lambda: create_state(tiny))()
    update = jax.jit(
        lambda state: apply_gradients(state, jax.tree.map(jnp.ones_like, state.params), tiny)
    )
    before = update(state)  # the first update's rate is 0: warm-up
    after = update(before)
    assert int(after.step) == 2
    decay = np.float32(3.0 / 12.0)
    for old, new, mean_before, mean_after in zip(
        *map(jax.tree.leaves, (before.params, after.params, before.ema, after.ema)), strict=True
    ):
        assert np.any(np.asarray(old) != np.asarray(new))
        expected = decay * mean_before + (1 - decay) * new
        np.testing.assert_allclose(mean_after, expected, rtol=1e-5, atol=1e-8)
