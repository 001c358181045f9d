"""Scaled dot-product attention (Vaswani et al. 2017), the one place where kernels are chosen.

    Attention(Q, K, V) = softmax(Q Kᵀ / √d) V,  for each head

Products take their inputs in the compute type; logits and softmax are float32.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def attention(
    query: Float[Array, "b n h d"],
    key: Float[Array, "b s h d"],
    value: Float[Array, "b s h d"],
) -> Float[Array, "b n h d"]:
    """Every query attends to every key; the result has the type of the query."""
    # Heads before tokens: each product is then a batch of plain matrix products.
    query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
    scale = 1.0 / math.sqrt(query.shape[-1])
    logits = jnp.einsum("bhnd,bhsd->bhns", query, key, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(scale * logits, axis=-1).astype(value.dtype)
    return jnp.swapaxes(jnp.einsum("bhns,bhsd->bhnd", weights, value), 1, 2)
