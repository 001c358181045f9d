"""Checksums of a state's arrays, by which flipped bytes in a checkpoint are found.

    c = Σᵢ mix(bits(xᵢ) ⊕ g·i)  mod 2³²      (i: index of the element in the whole array)

`mix` is the finaliser of MurmurHash3, a bijection of 32 bits: a change of one element always
changes c, any other change goes unnoticed once in 2³² times. Sums of integers do not depend on
their order, so c is the same on every mesh. It is computed where the array lies.

Array files of a checkpoint carry no checksum of their own: of 12 flipped bits, 12 were restored
without a word (Orbax 0.12.8).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32

from bokeh_jax.leaf_names import leaves_by_name

_GOLDEN = 0x9E37_79B9


def mix_bits(bits: UInt32[Array, "*n"]) -> UInt32[Array, "*n"]:
    """The finaliser of MurmurHash3."""
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x85EB_CA6B)
    bits = (bits ^ (bits >> 13)) * jnp.uint32(0xC2B2_AE35)
    return bits ^ (bits >> 16)


def _bits(leaf: jax.Array) -> UInt32[Array, "*n"]:
    width = leaf.dtype.itemsize
    if leaf.dtype == jnp.bool_:
        return leaf.astype(jnp.uint32)
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[width]
    return jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32)


@jax.jit
def _checksum(leaf: jax.Array) -> UInt32[Array, ""]:
    index, stride = jnp.zeros(leaf.shape, jnp.uint32), 1
    for axis in reversed(range(leaf.ndim)):
        along = jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
        index += along * jnp.uint32(stride % 2**32)
        stride *= leaf.shape[axis]
    return jnp.sum(mix_bits(_bits(leaf) ^ (index * jnp.uint32(_GOLDEN))), dtype=jnp.uint32)


def checksums(tree: Any) -> dict[str, int]:
    """Checksum of every array of a tree, by name. Waits for the arrays.

    In a job of several processes all of them call it; all get the same.
    """
    # One after the other: hundreds of small collectives under way at once have been seen to wait
    # for each other for ever on 8 virtual CPU devices (two threads serve them all).
    return {
        name: int(jax.device_get(_checksum(leaf))) for name, leaf in leaves_by_name(tree).items()
    }
