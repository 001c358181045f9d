"""The kernels of the slabs' nodes: constants of the plan, made when the renderer is compiled.

Where the opening is traced they are computed in the renderer instead, by the same functions: one
loop for all layers of a stage that share a grid of sub-pixels.

**At full resolution.** A photograph is known at its pixels and is linear in between. Averaging that
over the opening is a convolution with the opening, widened by the interpolation's own kernel and
sampled at the pixels::

    k = (opening of radius c) * tent,      tent(x) = max(0, 1 - |x|)

The opening's area inside every pixel would be its convolution with a box, and half a pixel of
radius would blur nothing.

**At a lower resolution** the picture is shrunk (D), convolved, and interpolated back with cubic
B-splines (U; see `resample`). In the frequency domain, with w' the frequencies that are one on the
coarse grid, S = 1 / |w|^2 the power of photographs and K the kernel wanted, the coarse kernel of
least expected error is::

    k(w) = sum S conj(D U) K  /  (sum S |D|^2  sum |U|^2),      the sums over all w'

among all kernels; among those of a few pixels it solves the normal equations whose matrix and right
side are the correlations that belong to the denominator and the numerator.

It makes up for what averaging and interpolation take from the rims.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from bokeh_jax.optics.aperture import Aperture, Shape, aperture_kernel
from bokeh_jax.optics.layer_plan import Slab
from bokeh_jax.optics.namespace import Scalar, is_traced
from bokeh_jax.optics.outlines import RimCenter
from bokeh_jax.optics.resample import CUBIC, LINEAR
from bokeh_jax.optics.zones import rim_centers, zone_shape

# Frequency, in cycles a pixel, below which the power of photographs is taken not to rise.
_LOWEST_FREQUENCY = 0.01
_WHITE_NOISE = 1e-4
# How far the kernels of lower resolutions reach beyond the opening, in their pixels.
_TAIL_PX = 3
# Sub-pixels along a pixel's side, for radii up to each; odd, so that one lies in the middle.
_SUBPIXELS = ((2.0, 25), (8.0, 15), (32.0, 7), (math.inf, 3))


def slab_kernels(
    aperture: Aperture,
    slabs: tuple[Slab, ...],
    level: int,
    half_size_px: int,
    frame: tuple[int, int],
) -> Float[Array | np.ndarray, "s n z k k"]:
    """Kernels of the nodes of slabs on one level, by slab, node and zone.

    A slab of fewer nodes than others has zeros for those it lacks.

    Args:
        aperture: the opening.
        slabs: of that level.
        level: the picture is halved that many times.
        half_size_px: see `kernel_half_size_px`.
        frame: (h, w) of the whole photograph.
    """
    nodes_px = [node_px for slab in slabs for node_px in slab.nodes_px]
    rims = rim_centers(aperture, frame)
    own = _kernels(zone_shape(aperture), nodes_px, rims, level, half_size_px)
    # Behind them stands a kernel of zeros, for the nodes that a slab lacks.
    own = (jnp if is_traced(own) else np).pad(own, ((0, 1), (0, 0), (0, 0), (0, 0)))
    index = np.full((len(slabs), max(len(slab.nodes_px) for slab in slabs)), len(nodes_px))
    for row, slab in zip(index, slabs, strict=True):
        row[: len(slab.nodes_px)] = [nodes_px.index(node_px) for node_px in slab.nodes_px]
    return own[index]


def kernel_half_size_px(slabs: tuple[Slab, ...], level: int) -> int:
    """Half size, even and in pixels of the level, that holds the kernels of slabs on it."""
    widest_px = max((slab.widest_px for slab in slabs), default=0.0)
    half_size_px = math.ceil(widest_px / 2**level) + (1 if level == 0 else _TAIL_PX)
    # Even, so that a frame padded by it keeps its coarser pixels aligned with pairs of its own.
    return half_size_px + half_size_px % 2


def layer_kernel(
    shape: Shape,
    signed_radius_px: float,
    level: int,
    half_size_px: int,
    rim_center: RimCenter | None = None,
) -> Float[Array | np.ndarray, "k k"]:
    """The kernel of one layer on one level, unit sum, in float64; see the module's head.

    Args:
        shape: the opening.
        signed_radius_px: in pixels of the full resolution.
        level: the picture is halved that many times.
        half_size_px: in pixels of the level.
        rim_center: see `aperture_kernel`.
    """
    if level == 0:
        return interpolating_kernel(shape, signed_radius_px, half_size_px, rim_center)
    wanted = interpolating_kernel(
        shape, signed_radius_px, math.ceil(abs(signed_radius_px)) + 1, rim_center
    )
    return _coarse_kernel(wanted, level, half_size_px)


def interpolating_kernel(
    shape: Shape,
    signed_radius_px: float,
    half_size_px: int,
    rim_center: RimCenter | None = None,
) -> Float[Array | np.ndarray, "k k"]:
    """The opening convolved with the tent of linear interpolation, sampled at the pixels."""
    if signed_radius_px == 0:
        return aperture_kernel(shape, 0.0, half_size_px)
    parts = _subpixels(signed_radius_px)
    return _widened_by_tent(shape, half_size_px, parts, signed_radius_px, rim_center)


def _subpixels(signed_radius_px: float) -> int:
    """Sub-pixels along a pixel's side; see above."""
    return next(n for most, n in _SUBPIXELS if abs(signed_radius_px) <= most)


def _widened_by_tent(
    shape: Shape,
    half_size_px: int,
    parts: int,
    signed_radius_px: Scalar,
    rim_center: RimCenter | None = None,
) -> Float[Array | np.ndarray, "k k"]:
    """`interpolating_kernel` by way of `parts` sub-pixels along each side of a pixel."""
    half_parts = half_size_px * parts + parts
    fine = aperture_kernel(shape, signed_radius_px * parts, half_parts, rim_center=rim_center)
    kernel = _under_tents(_under_tents(fine, parts).T, parts).T
    return kernel / kernel.sum()


def _under_tents(
    fine: Float[Array | np.ndarray, "f w"], parts: int
) -> Float[Array | np.ndarray, "n w"]:
    """Sums along the first axis under a tent about every pixel's middle; f = (n + 1) parts + 1.

    The tent of a pixel rises over one block of `parts` sub-pixels and falls over the next.
    """
    blocks = fine[1:].reshape(-1, parts, fine.shape[1])
    rising = np.arange(1.0, parts + 1)
    slopes = np.stack([rising, parts - rising]) @ blocks
    return slopes[:-1, 0] + slopes[1:, 1]


def _kernels(
    shape: Shape,
    radii_px: list[float],
    rims: list[RimCenter] | list[None],
    level: int,
    half_size_px: int,
) -> Float[Array | np.ndarray, "n z k k"]:
    """`layer_kernel` of every signed radius and rim's centre."""
    if not is_traced(shape, rims):
        known = [None if rim is None else (float(rim[0]), float(rim[1])) for rim in rims]
        rows = [
            [_known_kernel(shape, px, level, half_size_px, rim) for rim in known] for px in radii_px
        ]
        return np.array(rows)
    kernels = {}
    # Products in full precision on accelerators too; constants take the type of what is traced.
    with jax.default_matmul_precision("highest"), jax.numpy_dtype_promotion("standard"):
        for parts in sorted({_subpixels(px) for px in radii_px}):
            group = [px for px in radii_px if px != 0 and _subpixels(px) == parts]
            if group:
                kernels |= _traced_kernels(shape, group, parts, rims, level, half_size_px)
        if 0.0 in radii_px:
            sharp = jnp.asarray(aperture_kernel(shape, 0.0, half_size_px), float)
            kernels[0.0] = jnp.stack([sharp] * len(rims))
        return jnp.stack([kernels[px] for px in radii_px])


# A step photographs with one opening many times, and is traced more than once. A kernel of 60 px is
# 120 KB; small ones are the rule.
@functools.lru_cache(maxsize=1024)
def _known_kernel(
    shape: Shape,
    signed_radius_px: float,
    level: int,
    half_size_px: int,
    rim_center: tuple[float, float] | None,
) -> Float[np.ndarray, "k k"]:
    """`layer_kernel` of what is not traced, which nobody may write to."""
    kernel = np.asarray(layer_kernel(shape, signed_radius_px, level, half_size_px, rim_center))
    kernel.setflags(write=False)
    return kernel


def _traced_kernels(
    shape: Shape,
    radii_px: list[float],
    parts: int,
    rims: list[RimCenter] | list[None],
    level: int,
    half_size_px: int,
) -> dict[float, Float[Array, "z k k"]]:
    """Kernels by radius of radii with the same sub-pixels; compiled once for all of them."""
    reaches_px = {px: math.ceil(abs(px)) + 1 for px in radii_px}
    reach_px = half_size_px if level == 0 else max(reaches_px.values())
    widened = functools.partial(_widened_by_tent, shape, reach_px, parts)
    arguments = [jnp.repeat(jnp.asarray(radii_px, float), len(rims))]
    if rims[0] is not None:
        centers = jnp.stack([jnp.asarray(rim, float) for rim in rims])
        arguments.append(jnp.tile(centers, (len(radii_px), 1)))
    # The pieces of a boundary are many; the backward pass makes them again, kernel by kernel.
    kernel = jax.checkpoint(lambda row: widened(*row))
    all_wanted = jax.lax.map(kernel, tuple(arguments))
    all_wanted = all_wanted.reshape(len(radii_px), len(rims), *all_wanted.shape[1:])
    if level == 0:
        return dict(zip(radii_px, all_wanted, strict=True))
    coarse = {}
    for px, wanted in zip(radii_px, all_wanted, strict=True):
        inner = slice(reach_px - reaches_px[px], reach_px + reaches_px[px] + 1)
        coarsen = functools.partial(_coarse_kernel, level=level, half_size_px=half_size_px)
        coarse[px] = jax.vmap(coarsen)(wanted[:, inner, inner])
    return coarse


def _coarse_kernel(
    wanted: Float[Array | np.ndarray, "f f"], level: int, half_size_px: int
) -> Float[Array | np.ndarray, "k k"]:
    block_px, reach_px = 2**level, len(wanted) // 2
    least_px = max(4 * (reach_px + 4 * block_px), block_px * (2 * half_size_px + 2))
    size_px = 2 ** math.ceil(math.log2(least_px))
    xp = jnp if is_traced(wanted) else np
    centred = xp.pad(wanted, (0, size_px - len(wanted)))
    spectrum = xp.fft.fft2(xp.roll(centred, (-reach_px, -reach_px), axis=(0, 1)))
    through = _halving_and_doubling(level, size_px)
    asked = xp.fft.ifft2(_sum_aliases(through.power * np.conj(through.both) * spectrum, level)).real
    asked = xp.roll(asked, (half_size_px, half_size_px), axis=(0, 1))
    size = 2 * half_size_px + 1
    kernel = _least_squares(level, size_px, half_size_px) @ asked[:size, :size].reshape(-1)
    return (kernel / kernel.sum()).reshape(size, size)


class _Through(NamedTuple):
    """Spectra of the way to a coarse grid and back.

    Attributes:
        power: of photographs.
        both: averaging times interpolating.
        energy: of what comes back of photographs, on the coarse grid.
    """

    power: Float[np.ndarray, "f f"]
    both: Complex[np.ndarray, "f f"]
    energy: Float[np.ndarray, "c c"]


@functools.cache
def _halving_and_doubling(level: int, size_px: int) -> _Through:
    # Averaging is the transpose of linear doubling.
    lines = (
        np.conj(_spread_spectrum(level, size_px, LINEAR)) / 2**level,
        _spread_spectrum(level, size_px, CUBIC),
    )
    averaging, interpolating = (np.outer(line, line) for line in lines)
    frequency = np.fft.fftfreq(size_px)
    power = 1 / (frequency[:, None] ** 2 + frequency**2 + _LOWEST_FREQUENCY**2)
    energy = _sum_aliases(power * np.abs(averaging) ** 2, level)
    energy = energy * _sum_aliases(np.abs(interpolating) ** 2, level)
    return _Through(power, averaging * interpolating, energy / 4**level)


@functools.cache
def _least_squares(level: int, size_px: int, half_size_px: int) -> Float[np.ndarray, "n n"]:
    """From the wanted correlations on a kernel's support to the kernel.

    Cutting off the unconstrained kernel would change its variance by up to a fifth.
    """
    energy = np.fft.ifft2(_halving_and_doubling(level, size_px).energy).real
    line = np.arange(2 * half_size_px + 1)
    y, x = (axis.ravel() for axis in np.meshgrid(line, line, indexing="ij"))
    normal = energy[y[:, None] - y, x[:, None] - x]
    # A little of white noise in the photographs, against rounding.
    return np.linalg.inv(normal + _WHITE_NOISE * energy[0, 0] * np.eye(len(normal)))


def _sum_aliases(values, level: int):
    """Sum over the frequencies that are one on the coarse grid."""
    block_px, blocks = 2**level, len(values) // 2**level
    return values.reshape(block_px, blocks, block_px, blocks).sum(axis=(0, 2))


def _spread_spectrum(
    level: int, size_px: int, weights: tuple[float, ...]
) -> Complex[np.ndarray, " f"]:
    """Spectrum along a line of what one coarse pixel becomes when it is doubled `level` times."""
    line, start = np.ones(1), 0
    for _ in range(level):
        doubled = np.zeros(2 * len(line) + len(weights) - 2)
        for i, value in enumerate(line):
            doubled[2 * i : 2 * i + len(weights)] += value * np.array(weights)
        line, start = doubled, 2 * start - (len(weights) // 2 - 1)
    spread = np.zeros(size_px)
    spread[: len(line)] = line
    return np.fft.fft(np.roll(spread, start))
