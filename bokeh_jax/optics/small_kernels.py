"""Convolution with small kernels, tap by tap.

    out_p(x) = sum over layers n and taps o of k_n(o) plane_np(x + o)

One fused loop for each kind of plane: a tap costs a load and a multiplication, which up to radii of
about two pixels is several times less than a transform. The transpose, with g the cotangents
continued by zeros::

    of plane_np(y) = sum over o of k_n(o) g_p(y - o)
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bokeh_jax.optics.linear import kept

# Beyond this many taps a transform is faster.
_MOST_TAPS = 49

Taps = tuple[tuple[int, int], ...]


def small_kernel_taps(kernels: Float[Array | np.ndarray, "s n z k k"]) -> Taps | None:
    """(row, column) of the taps that any of the kernels uses.

    None where these are too many, where kernels change over the frame, or where they are traced:
    the sums here are not differentiable in the kernels.
    """
    if not isinstance(kernels, np.ndarray) or kernels.shape[2] > 1:
        return None
    used = np.argwhere(np.any(kernels != 0, axis=(0, 1, 2)))
    return tuple((int(y), int(x)) for y, x in used) if len(used) <= _MOST_TAPS else None


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
    return list(_sum_taps(taps, frame, size, tuple(map(tuple, layers)), kernels))


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

    def of_kind(planes):
        total = jnp.zeros((*planes[0].shape[:-2], *frame), planes[0].dtype)
        for plane, kernel in zip(planes, kernels, strict=True):
            for y, x in taps:
                window = plane[..., last - y :, last - x :][..., : frame[0], : frame[1]]
                total += kernel[y, x] * window
        return total

    return _for_each(of_kind, tuple(zip(*layers, strict=True)))


def _spread(taps, frame, size, cotangents, kernels):
    count = kernels.shape[-1]
    margins = [
        (count - 1, length + count - 1 - own) for length, own in zip(size, frame, strict=True)
    ]

    def of_kind(gains):
        gain = jnp.pad(gains[0], [(0, 0)] * (gains[0].ndim - 2) + margins)
        planes = []
        for kernel in kernels:
            total = jnp.zeros((*gain.shape[:-2], *size), gain.dtype)
            for y, x in taps:
                total += kernel[y, x] * gain[..., y : y + size[0], x : x + size[1]]
            planes.append(total)
        return tuple(planes)

    return tuple(zip(*_for_each(of_kind, tuple((g,) for g in cotangents)), strict=True))


def _for_each(function, kinds):
    """The function of every kind of plane, compiled once: its sums have hundreds of terms."""
    stacked = jax.tree.map(lambda *planes: jnp.stack(planes), *kinds)
    results = jax.lax.map(function, stacked)
    return tuple(jax.tree.map(lambda planes, i=i: planes[i], results) for i in range(len(kinds)))


def _forward(taps, frame, size, layers, kernels):
    return _sum_taps(taps, frame, size, layers, kernels), kernels


def _backward(taps, frame, size, kernels, cotangents):
    spread = functools.partial(_spread, taps, frame, size)
    return kept(spread, cotangents, kernels), jnp.zeros_like(kernels)


_sum_taps.defvjp(_forward, _backward)
