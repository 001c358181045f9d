"""Randomness without state: every key is a function of (seed, name, step, example).

    key(name, step)          = fold_in(fold_in(key(seed), hash(name)), step)
    key(name, step, example) = fold_in(key(name, step), index in the global batch)

Nothing is carried from step to step and nothing is saved: a resumed run, a run on another number of
hosts and a replayed step draw the same numbers.
"""

import zlib

import jax
import jax.numpy as jnp
from jaxtyping import Array, Integer, Key


def step_key(seed: int, name: str, step: Integer[Array, ""] | int) -> Key[Array, ""]:
    """Key of the stream `name` at `step`."""
    # crc32 and not hash(): the latter differs between processes.
    stream = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
    return jax.random.fold_in(stream, step)


def example_keys(key: Key[Array, ""], count: int, first: int = 0) -> Key[Array, " b"]:
    """One key an example, [count]; `first` is the index of the first one in the global batch."""
    return jax.vmap(lambda index: jax.random.fold_in(key, index))(
        jnp.arange(first, first + count, dtype=jnp.uint32)
    )
