"""Rotary position embedding over several axes (Su et al. 2021, RoFormer; axes as in FLUX).

A head's d channels are split among the axes, d = Σ_a d_a. For the position p_a of axis a, channels
(2i, 2i+1) of its part turn by the angle

    (1) φ = p_a θ^(−2i/d_a),   i = 0 … d_a/2 − 1

    (2) (x_2i, x_2i+1) -> (cos φ x_2i − sin φ x_2i+1, sin φ x_2i + cos φ x_2i+1)

so that the product of a query at p and a key at q depends on p − q alone, axis by axis.
Positions are integers up to here: bfloat16 holds integers exactly only up to 256.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int


@struct.dataclass
class Rotation:
    """Cosine and sine of equation (1), `[b, n, d/2]` each, float32."""

    cos: Array
    sin: Array


def rope_rotation(ids: Int[Array, "b n a"], axes_dim: tuple[int, ...], theta: float) -> Rotation:
    """The rotation of every token, equation (1).

    Args:
        ids: Integer position of each token along each axis.
        axes_dim: Channels of a head given to each axis, even numbers.
        theta: Base of the frequencies.
    """
    angles = []
    for axis, dim in enumerate(axes_dim):
        # float64 on the host: the frequencies are constants of the compiled step.
        frequency = theta ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)
        position = ids[:, :, axis, None].astype(jnp.float32)
        angles.append(position * jnp.asarray(frequency[None, None, :], jnp.float32))
    angle = jnp.concatenate(angles, axis=-1)
    return Rotation(cos=jnp.cos(angle), sin=jnp.sin(angle))


def apply_rope(x: Float[Array, "b n h d"], rotation: Rotation) -> Float[Array, "b n h d"]:
    """Turn the channel pairs of queries or keys, equation (2); computed in float32."""
    return jax.lax.platform_dependent(
        x, rotation.cos, rotation.sin, tpu=turn_by_product, default=_turn_pairs
    )


def _turn_pairs(
    x: Float[Array, "b n h d"], cos: Float[Array, "b n e"], sin: Float[Array, "b n e"]
) -> Float[Array, "b n h d"]:
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    cos, sin = cos[:, :, None, :], sin[:, :, None, :]
    even, odd = pairs[..., 0], pairs[..., 1]
    turned = jnp.stack((cos * even - sin * odd, sin * even + cos * odd), axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)


def turn_by_product(
    x: Float[Array, "b n h d"], cos: Float[Array, "b n e"], sin: Float[Array, "b n e"]
) -> Float[Array, "b n h d"]:
    """The same with (−x_2i+1, x_2i) as a product with a matrix of 0, 1 and −1, exact in float32.

    A TPU holds 128 channels side by side: cut into pairs they would fill 2 of 128 places.
    """
    wide, dim = x.astype(jnp.float32), x.shape[-1]
    even = np.arange(0, dim, 2)
    swap = np.zeros((dim, dim), np.float32)
    swap[even + 1, even], swap[even, even + 1] = -1.0, 1.0
    swapped = jnp.einsum(
        "bnhd,de->bnhe", wide, jnp.asarray(swap), precision=jax.lax.Precision.HIGHEST
    )
    cos, sin = (jnp.repeat(part, 2, axis=-1)[:, :, None, :] for part in (cos, sin))
    return (cos * wide + sin * swapped).astype(x.dtype)


def grid_ids(stream: int, rows: int, columns: int, batch: int) -> Int[Array, "b n 3"]:
    """Positions (stream, row, column) of an image's tokens in row-major order, int32.

    `stream` tells images of one sequence apart: 0 the noisy one, 1 its reference, 2 the guess.
    """
    row, column = np.mgrid[:rows, :columns]
    ids = np.stack((np.full_like(row, stream), row, column), axis=-1).reshape(1, -1, 3)
    return jnp.broadcast_to(jnp.asarray(ids, jnp.int32), (batch, rows * columns, 3))
