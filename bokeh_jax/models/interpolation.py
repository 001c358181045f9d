"""Resampling of planes to another size, as torch's `interpolate` does it, by two matrices.

    out = R x Cᵀ,      R [h', h] of the rows, C [w', w] of the columns

Pixel i of the n' of an output line lies at s among the n of the input line, and takes of the input
pixels around it:

    (1) corners aligned   s = i (n − 1) / (n' − 1)    linear: 1 − t, t               of ⌊s⌋ ...
    (2) edges aligned     s = (i + ½) n / n' − ½      cubic: k(1 + t) ... k(2 − t)  of ⌊s⌋ − 1 ...

with t = s − ⌊s⌋, edge pixels replicated, no antialiasing, and the cubic of Keys (1981) at a = −3/4
(`jax.image` has a = −1/2, and other edges):

    k(x) = (a + 2) |x|³ − (a + 3) |x|² + 1                     |x| ≤ 1
         = a |x|³ − 5a |x|² + 8a |x| − 4a                      1 < |x| < 2

The matrices are computed on the host in float64, products are float32. As products, and not as
gathers, both the map and its transpose run on matrix units, and nothing is scattered.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

_A = -0.75


def linear_matrix(size_in: int, size_out: int) -> Float32[np.ndarray, "o i"]:
    """Linear interpolation with corners aligned, equation (1)."""
    scale = (size_in - 1) / (size_out - 1) if size_out > 1 else 0.0
    source = scale * np.arange(size_out)
    first = np.floor(source)
    share = source - first
    return _matrix(size_in, first, [1 - share, share])


def cubic_matrix(size_in: int, size_out: int) -> Float32[np.ndarray, "o i"]:
    """Cubic interpolation with edges aligned, equation (2)."""
    source = (np.arange(size_out) + 0.5) * (size_in / size_out) - 0.5
    first = np.floor(source)
    share = source - first
    taps = [_keys(np.abs(share + offset)) for offset in (1, 0, -1, -2)]
    return _matrix(size_in, first - 1, taps)


def resample(
    x: Float[Array, "b h w c"],
    rows: Float32[np.ndarray, "o h"],
    columns: Float32[np.ndarray, "p w"],
) -> Float[Array, "b o p c"]:
    """R x Cᵀ of every channel, float32, in full precision on every device."""
    x = x.astype(jnp.float32)
    highest = jax.lax.Precision.HIGHEST
    steps = [("oh,bhwc->bowc", rows), ("pw,bhwc->bhpc", columns)]
    # First the one that adds least, so that the other has less to do.
    for sums, matrix in sorted(steps, key=lambda step: step[1].shape[0] / step[1].shape[1]):
        x = jnp.einsum(sums, matrix, x, precision=highest)
    return x


def _keys(x: np.ndarray) -> np.ndarray:
    near = ((_A + 2) * x - (_A + 3)) * x * x + 1
    far = ((_A * x - 5 * _A) * x + 8 * _A) * x - 4 * _A
    return np.where(x <= 1, near, far)


def _matrix(size_in: int, first: np.ndarray, weights: list[np.ndarray]) -> np.ndarray:
    """A row for every output pixel: its weights from input pixel `first` on, edges replicated."""
    matrix = np.zeros((len(first), size_in))
    lines = np.arange(len(first))
    for offset, weight in enumerate(weights):
        taken = np.clip(first.astype(int) + offset, 0, size_in - 1)
        np.add.at(matrix, (lines, taken), weight)
    return matrix.astype(np.float32)
