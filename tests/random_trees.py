"""Parameters of which none is 0 or 1, and no two the same: what starts at zero hides errors."""

import jax.numpy as jnp
import numpy as np
from jax import tree
from jaxtyping import PyTree


def drawn(shapes: PyTree, seed: int, scale: float) -> PyTree:
    """Normal values in the shapes and types of `shapes`, made by numpy: nothing is compiled."""
    random = np.random.default_rng(seed)
    return tree.map(
        lambda leaf: jnp.asarray(scale * random.standard_normal(leaf.shape), leaf.dtype), shapes
    )
