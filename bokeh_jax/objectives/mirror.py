"""Scenes in a mirror: what is left is right, in all that a batch shows of a scene.

Captions are not turned; who reads "left" and "right" in them sets the rate to 0.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

# Fields of a batch that have a left side, all [b, h, w, ...].
_SEEN = ("photograph", "image", "disparity")


def mirrored(batch: Mapping[str, Any], keys: Key[Array, " b"], rate: float) -> dict[str, Any]:
    """A batch with some of its scenes in a mirror; the other fields stay.

    Args:
        batch: any of `photograph` and `image` [b, h, w, 3] and `disparity` [b, h, w], and others.
        keys: one a scene.
        rate: share of the scenes, 0 to 1.
    """
    if not rate:
        return dict(batch)
    flipped = jax.vmap(lambda key: jax.random.bernoulli(key, rate))(keys)

    def turned(images: Array) -> Array:
        shape = (-1, *(1,) * (images.ndim - 1))
        return jnp.where(flipped.reshape(shape), images[:, :, ::-1], images)

    seen = {name: turned(jnp.asarray(batch[name])) for name in _SEEN if name in batch}
    return dict(batch) | seen
