import jax
import jax.numpy as jnp
import numpy as np

from bokeh_jax.training.rng import example_keys, step_key


def bits(key):
    return np.asarray(jax.random.key_data(key))


def test_keys_are_functions_of_seed_name_and_step():
    base = bits(step_key(1, "train", 5))
    np.testing.assert_array_equal(
        base, bits(jax.jit(lambda s: step_key(1, "train", s))(jnp.int32(5)))
    )
    for other in (step_key(2, "train", 5), step_key(1, "panel", 5), step_key(1, "train", 6)):
        assert not np.array_equal(base, bits(other))


def test_the_stream_of_a_name_never_changes():
    # What resumed runs rely on: a process that hashed names otherwise would draw other numbers.
    expected = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 0x5C66E4A3), 3)
    np.testing.assert_array_equal(bits(step_key(0, "train", 3)), bits(expected))


def test_an_example_draws_the_same_in_any_slice_of_the_batch():
    key = step_key(0, "train", 0)
    whole = bits(example_keys(key, 8))
    np.testing.assert_array_equal(whole[4:], bits(example_keys(key, 4, first=4)))
    assert len(np.unique(whole, axis=0)) == 8
