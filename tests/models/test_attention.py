from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from bokeh_jax.models.attention import (
    attention,
    heads_spec,
    on_every_device,
    splash_attention,
    splash_block,
)


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


def test_the_kernel_for_tpus_gives_the_same_values_and_gradients():
    # Queries fill up one block of 256, keys two of 384.
    inputs = draw(jnp.float32, 132, 520)
    wanted = jax.random.normal(jax.random.key(1), inputs[0].shape)

    def summed(function):
        return jax.jit(
            jax.value_and_grad(lambda *x: jnp.vdot(function(*x), wanted), argnums=(0, 1, 2))
        )

    value, gradients = summed(attention)(*inputs)
    kernel_value, kernel_gradients = summed(partial(splash_attention, interpret=True))(*inputs)
    np.testing.assert_allclose(kernel_value, value, rtol=1e-5)
    for gradient, kernel_gradient in zip(gradients, kernel_gradients, strict=True):
        atol = 1e-6 * float(jnp.max(jnp.abs(gradient)))
        np.testing.assert_allclose(kernel_gradient, gradient, atol=atol)


@pytest.mark.parametrize("kernel", ["splash", "cudnn"])
def test_elsewhere_a_kernel_is_the_plain_products(kernel):
    inputs = draw(jnp.float32)
    np.testing.assert_allclose(attention(*inputs, kernel), attention(*inputs), atol=2e-6)


@pytest.mark.parametrize(
    ("length", "block"),
    [(4, 128), (128, 128), (129, 256), (1024, 512), (1028, 384), (2052, 384), (4100, 384)],
)
def test_blocks_fill_up_little(length, block):
    assert splash_block(length) == block


@pytest.mark.parametrize(
    ("sizes", "examples", "heads", "spec"),
    [
        ({"data": 2, "fsdp": 4, "tensor": 2}, 16, 6, (("data", "fsdp"), None, "tensor", None)),
        ({"data": 2, "fsdp": 4, "tensor": 2}, 16, 3, (("data", "fsdp"), None, None, None)),
        ({"data": 2, "fsdp": 4}, 2, 6, ("data", None, None, None)),
        ({"data": 2, "fsdp": 4}, 1, 6, (None, None, None, None)),
        ({"rows": 2}, 2, 6, (None, None, None, None)),
    ],
)
def test_axes_that_do_not_divide_cut_nothing(sizes, examples, heads, spec):
    assert heads_spec(sizes, examples, heads) == PartitionSpec(*spec)


def test_a_kernel_is_called_with_the_mesh_that_is_set():
    shapes = []

    def kernel(query, key, value):
        shapes.append(query.shape)
        return attention(query, key, value)

    inputs = draw(jnp.float32)
    mesh = jax.make_mesh((1, 1), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        out = jax.jit(on_every_device(kernel))(*inputs)
    np.testing.assert_allclose(out, attention(*inputs), atol=2e-6)
    assert shapes == [(2, 5, 3, 8)]
