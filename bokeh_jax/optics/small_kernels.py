"""Convolution with small kernels, tap by tap.

    out_p(x) = sum over layers n and taps o of k_n(o) plane_np(x + o)

One fused loop: a tap costs a load and a multiplication, which up to radii of about five pixels is
less than a transform. The transpose, with g the cotangents
continued by zeros::

    of plane_np(y) = sum over o of k_n(o) g_p(y - o)
"""

import functools
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bokeh_jax.optics.linear import kept

# Beyond this many taps a transform is faster.
_MOST_TAPS = 300

# Partial sums that are added up at the end: a chain of additions waits for each one's result.
_CHAINS = 4

# (row, column) of the taps of every layer's kernel.
Taps = tuple[tuple[tuple[int, int], ...], ...]


def small_kernel_taps(kernels: Float[Array | np.ndarray, "s n z k k"]) -> Taps | None:
    """The taps that any slab uses of each of its kernels.

    None where these are too many, where kernels change over the frame, or where they are traced:
    the sums here are not differentiable in the kernels.
    """
    if not isinstance(kernels, np.ndarray) or kernels.shape[2] > 1:
        return None
    used = np.any(kernels[:, :, 0] != 0, axis=0)
    if used.sum() > _MOST_TAPS:
        return None
    return tuple(tuple((int(y), int(x)) for y, x in np.argwhere(layer)) for layer in used)


def sum_taps(
    layers: Sequence[Sequence[Float[Array, "b hp wp"]]],
    kernels: Float[Array, "n k k"],
    taps: Taps,
    frame: tuple[int, int],
) -> list[Float[Array, "b h w"]]:
    """Sum over layers of their planes, each convolved with its layer's kernel.

    Differentiable in the planes, in reverse mode.

    Args:
        layers: planes of each layer, the frame beginning half a kernel inside.
        kernels: of each layer; point-spread functions with their centre in the middle.
        taps: those that are used; static.
        frame: (h, w) to be kept.
    """
    size = layers[0][0].shape[-2:]
    # All kinds of planes in one array, so that one loop serves them.
    stacked = tuple(jnp.stack(planes) for planes in layers)
    return list(_sum_taps(taps, frame, size, stacked, kernels))


def crop(
    plane: Float[Array, "*n hp wp"], first: int, frame: tuple[int, int]
) -> Float[Array, "*n h w"]:
    """The frame of a padded plane."""
    return plane[..., first : first + frame[0], first : first + frame[1]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _sum_taps(taps, frame, size, layers, kernels):
    return kept(functools.partial(_gather, taps, frame), layers, kernels)


def _gather(taps, frame, layers, kernels):
    last = kernels.shape[-1] - 1
    terms = (
        kernel[y, x] * planes[..., last - y :, last - x :][..., : frame[0], : frame[1]]
        for planes, kernel, own in zip(layers, kernels, taps, strict=True)
        for y, x in own
    )
    return _total(terms)


def _spread(taps, frame, size, cotangents, kernels):
    count = kernels.shape[-1]
    margins = [
        (count - 1, length + count - 1 - own) for length, own in zip(size, frame, strict=True)
    ]
    gains = jnp.pad(cotangents, [(0, 0)] * (cotangents.ndim - 2) + margins)
    return tuple(
        _total(kernel[y, x] * gains[..., y : y + size[0], x : x + size[1]] for y, x in own)
        for kernel, own in zip(kernels, taps, strict=True)
    )


def _total(terms: Iterable[Array]) -> Array:
    """Sum in several chains, which a processor works on at once."""
    chains: list[Array] = []
    for i, term in enumerate(terms):
        if i < _CHAINS:
            chains.append(term)
        else:
            chains[i % _CHAINS] += term
    return functools.reduce(jnp.add, chains)


def _forward(taps, frame, size, layers, kernels):
    return _sum_taps(taps, frame, size, layers, kernels), kernels


def _backward(taps, frame, size, kernels, cotangents):
    spread = functools.partial(_spread, taps, frame, size)
    return kept(spread, cotangents, kernels), jnp.zeros_like(kernels)


_sum_taps.defvjp(_forward, _backward)
