import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dit_reference import rotate
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from bokeh_jax.models.rope import apply_rope, grid_ids, rope_rotation, turn_by_product

AXES = (2, 4, 6)
THETA = 10_000.0


def turn(x, ids):
    return apply_rope(x, rope_rotation(ids, AXES, THETA))


def test_closed_form():
    x = jax.random.normal(jax.random.key(0), (2, 5, 3, 12), jnp.float32)
    ids = jax.random.randint(jax.random.key(1), (2, 5, 3), 0, 40)
    turned = np.asarray(turn(x, ids))
    for b in range(2):
        for h in range(3):
            expected = rotate(np.asarray(x[b, :, h], np.float64), np.asarray(ids[b]), AXES, THETA)
            np.testing.assert_allclose(turned[b, :, h], expected, atol=2e-5)


def test_by_a_product_it_is_the_same():
    x = jax.random.normal(jax.random.key(0), (2, 5, 3, 12), jnp.float32)
    ids = jax.random.randint(jax.random.key(1), (2, 5, 3), 0, 40)
    rotation = rope_rotation(ids, AXES, THETA)
    by_product = turn_by_product(x, rotation.cos, rotation.sin)
    np.testing.assert_allclose(by_product, apply_rope(x, rotation), atol=1e-6)
    low = turn_by_product(x.astype(jnp.bfloat16), rotation.cos, rotation.sin)
    assert low.dtype == jnp.bfloat16


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 2**31 - 1),
    shift=st.tuples(*[st.integers(-30, 30)] * 3),
)
def test_products_depend_on_relative_positions_alone(seed, shift):
    keys = jax.random.split(jax.random.key(seed), 3)
    q, k = (jax.random.normal(key, (1, 4, 1, 12), jnp.float32) for key in keys[:2])
    ids = jax.random.randint(keys[2], (1, 4, 3), 0, 30)
    moved = ids + jnp.asarray(shift, jnp.int32)[None, None, :]
    before = jnp.einsum("bnhd,bshd->bns", turn(q, ids), turn(k, ids))
    after = jnp.einsum("bnhd,bshd->bns", turn(q, moved), turn(k, moved))
    np.testing.assert_allclose(before, after, atol=5e-5)


def test_each_axis_turns_its_own_channels():
    x = jnp.ones((1, 1, 1, 12), jnp.float32)
    for axis, channels in enumerate((slice(0, 2), slice(2, 6), slice(6, 12))):
        ids = jnp.zeros((1, 1, 3), jnp.int32).at[0, 0, axis].set(1)
        moved = np.flatnonzero(np.abs(np.asarray(turn(x, ids) - x)).ravel() > 1e-6)
        assert set(moved) <= set(range(12)[channels])
        assert moved.size >= 2


def test_positions_above_256_stay_apart_in_low_precision():
    x = jnp.ones((1, 2, 1, 12), jnp.bfloat16)
    ids = jnp.asarray([[[0, 1000, 0], [0, 1001, 0]]], jnp.int32)
    turned = turn(x, ids)
    assert turned.dtype == jnp.bfloat16
    expected = [[np.cos(p) - np.sin(p), np.sin(p) + np.cos(p)] for p in (1000, 1001)]
    np.testing.assert_allclose(np.asarray(turned[0, :, 0, 2:4], np.float32), expected, atol=0.01)


def test_positions_are_integers():
    ids = grid_ids(2, 3, 4, batch=5)
    assert ids.dtype == jnp.int32
    expected = [[2, row, column] for row in range(3) for column in range(4)]
    np.testing.assert_array_equal(ids, [expected] * 5)
    with pytest.raises(TypeCheckError):
        rope_rotation(ids.astype(jnp.float32), AXES, THETA)
