"""Convolution with small kernels, tap by tap.

    out_p(x) = sum over layers n and taps o of k_n(o) plane_np(x + o)

One fused loop: a tap costs a load and an addition, which up to radii of about five pixels is less
than a transform. Taps of equal weight, such as all that lie inside the opening, are added up before
they are multiplied. The transpose, with g the cotangents
continued by zeros::

    of plane_np(y) = sum over o of k_n(o) g_p(y - o)
"""

import functools
from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact, Int

from bokeh_jax.optics.linear import kept

# Beyond this many taps a transform is faster.
_MOST_TAPS = 450

# Partial sums that are added up at the end: a chain of additions waits for each one's result.
_CHAINS = 4

# Taps are one group where their weights agree to this share of the greatest one.
_EQUAL_WEIGHTS = 1e-7

# (row, column) of taps of equal weight, in groups, for every layer.
Group = tuple[tuple[int, int], ...]
Taps = tuple[tuple[Group, ...], ...]


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
    return tuple(_groups(kernels[:, n, 0], np.argwhere(layer)) for n, layer in enumerate(used))


def _groups(kernels: Float[np.ndarray, "s k k"], taps: Int[np.ndarray, "t 2"]) -> tuple[Group, ...]:
    """Taps whose weights are the same in all kernels, together."""
    unit = _EQUAL_WEIGHTS * max(np.abs(kernels).max(initial=0.0), np.finfo(float).tiny)
    groups: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for y, x in taps:
        weights = tuple(int(weight) for weight in np.rint(kernels[:, y, x] / unit))
        groups.setdefault(weights, []).append((int(y), int(x)))
    return tuple(tuple(group) for group in groups.values())


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
    plane: Inexact[Array, "*n hp wp"], first: int, frame: tuple[int, int]
) -> Inexact[Array, "*n h w"]:
    """The frame of a padded plane."""
    return crop_at(plane, first, first, frame)


def crop_at(
    plane: Inexact[Array, "*n hp wp"], top: int, left: int, frame: tuple[int, int]
) -> Inexact[Array, "*n h w"]:
    """A frame cut out of a plane."""
    return plane[..., top : top + frame[0], left : left + frame[1]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _sum_taps(taps, frame, size, layers, kernels):
    # Layer by layer: a loop over the taps of five is several times slower than five loops.
    sums = [
        kept(functools.partial(_gather, groups, frame), planes, kernel)
        for planes, kernel, groups in zip(layers, kernels, taps, strict=True)
        if groups
    ]
    return functools.reduce(jnp.add, sums)


def _gather(groups, frame, planes, kernel):
    last = kernel.shape[-1] - 1
    return _weighted_sum(lambda y, x: crop_at(planes, last - y, last - x, frame), kernel, groups)


def _spread(taps, frame, size, cotangents, kernels):
    count = kernels.shape[-1]
    margins = [
        (count - 1, length + count - 1 - own) for length, own in zip(size, frame, strict=True)
    ]
    gains = jnp.pad(cotangents, [(0, 0)] * (cotangents.ndim - 2) + margins)
    return tuple(
        _weighted_sum(lambda y, x: crop_at(gains, y, x, size), kernel, groups)
        if groups
        else jnp.zeros((*gains.shape[:-2], *size), gains.dtype)
        for kernel, groups in zip(kernels, taps, strict=True)
    )


def _weighted_sum(
    window: Callable[[int, int], Array], kernel: Float[Array, "k k"], groups: tuple[Group, ...]
) -> Array:
    """Sum of windows times their weights: one multiplication for each group."""
    return _total(kernel[group[0]] * _total(window(*tap) for tap in group) for group in groups)


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
