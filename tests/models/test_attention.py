import jax
import jax.numpy as jnp
import numpy as np

from bokeh_jax.models.attention import attention


def draw(dtype, num_queries=5, num_keys=7):
    keys = jax.random.split(jax.random.key(0), 3)
    lengths = (num_queries, num_keys, num_keys)
    return [
        2.0 * jax.random.normal(key, (2, n, 3, 8), dtype)
        for key, n in zip(keys, lengths, strict=True)
    ]


def brute_force(query, key, value):
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    out = np.zeros(query.shape)
    for b, n, h in np.ndindex(*query.shape[:3]):
        weights = np.exp([query[b, n, h] @ k / np.sqrt(8.0) for k in key[b, :, h]])
        out[b, n, h] = weights @ value[b, :, h] / weights.sum()
    return out


def test_brute_force():
    inputs = draw(jnp.float32)
    np.testing.assert_allclose(attention(*inputs), brute_force(*inputs), atol=2e-6)


def test_softmax_is_float32_in_low_precision():
    inputs = draw(jnp.bfloat16, num_keys=300)
    out = attention(*inputs)
    assert out.dtype == jnp.bfloat16
    # The inputs' rounding aside, what is left is that of the weights and of the result: 2⁻⁸ each.
    error = np.abs(np.asarray(out, np.float64) - brute_force(*inputs))
    bound = 2**-7 * brute_force(*inputs[:2], jnp.abs(inputs[2]))
    assert np.all(error < bound)


def test_large_logits_stay_finite():
    query, key, value = draw(jnp.float32)
    out = attention(1e4 * query, 1e4 * key, value)
    best = np.argmax(np.einsum("bnhd,bshd->bnhs", query, key), axis=-1)
    b, _, h = np.indices(best.shape)
    np.testing.assert_allclose(out, np.asarray(value)[b, best, h], rtol=1e-6)
