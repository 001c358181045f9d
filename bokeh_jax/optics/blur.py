"""Sums of convolutions with wide kernels, by way of the frequency domain.

The photograph continues beyond its frame, so every plane comes padded by the kernels' half size
with copies of its edge. A circular convolution of the padded plane is then exact inside the frame:
only the padding can be reached by what wraps around. With P_n the planes of layer n::

    out = crop(F^-1(sum over n of F(P_n) F(k_n)))

The sum is taken before the inverse transform, which is linear: any number of layers costs one.
Kernels are real, so two planes p and q are transformed as one complex plane p + i q, and come back
as the real and the imaginary part. Kernels are transformed where they are used, since the spatial
kernels of a hundred layers fit in a few megabytes and their transforms do not.

A kernel that changes over the frame is a sum of constant ones, the result of each weighted with a
hat function of the frame (`zones`).
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from bokeh_jax.optics.linear import channels, from_channels
from bokeh_jax.optics.small_kernels import crop


def fast_fft_size(size_px: int) -> int:
    """The least even number of factors 2, 3 and 5 that is not less than `size_px`."""
    candidate = max(2, size_px + size_px % 2)
    while not _is_smooth(candidate):
        candidate += 2
    return candidate


def _is_smooth(number: int) -> bool:
    for factor in (2, 3, 5):
        while number % factor == 0:
            number //= factor
    return number == 1


def spectrum(
    planes: Float[Array, "*n hp wp"], fft_shape: tuple[int, int]
) -> Complex[Array, "*n u v"]:
    """Transform of padded planes or of a kernel whose first pixel is the origin."""
    return jnp.fft.rfft2(planes, s=fft_shape)


def from_spectrum(
    product: Complex[Array, "*n u v"],
    fft_shape: tuple[int, int],
    half_size_px: int,
    frame: tuple[int, int],
) -> Float[Array, "*n h w"]:
    """The frame of a convolution: padding and the kernel's own offset are cut away.

    Args:
        product: sum of products of spectra of planes, the frame beginning `half_size_px`
            inside, and of kernels of that half size.
        fft_shape: real shape of the transforms.
        half_size_px: see above.
        frame: (h, w) of the planes before padding.
    """
    full = jnp.fft.irfft2(product, s=fft_shape)
    # The kernel's centre sits at half_size_px instead of 0: that shifts the result once more.
    first = 2 * half_size_px
    return full[..., first : first + frame[0], first : first + frame[1]]


def padded_fft_shape(frame: tuple[int, int], half_size_px: int) -> tuple[int, int]:
    """A fast transform size for a frame with `half_size_px` of padding around it."""
    return (
        fast_fft_size(frame[0] + 2 * half_size_px),
        fast_fft_size(frame[1] + 2 * half_size_px),
    )


def blur_sum(
    layers: Sequence[Sequence[Float[Array, "b hp wp"]]],
    kernels: Float[Array, "n z k k"],
    hats: tuple[Float[Array, "z h"], Float[Array, "z w"]],
    size: tuple[int, int],
    frame: tuple[int, int],
    *,
    symmetric: bool = False,
) -> list[Float[Array, "b h w"]]:
    """Sum over layers of their planes, each blurred with its layer's kernels.

    Args:
        layers: planes of each layer, of shape `size`, the frame beginning half a kernel inside.
        kernels: of each layer and zone.
        hats: weights of the zones over the frame.
        size: a fast transform's.
        frame: (h, w) to be kept.
        symmetric: whether half a turn leaves all kernels as they are; saves half of the products.
    """
    half_size_px = kernels.shape[-1] // 2
    pairs = len(layers[0]) // 2
    paired = [_spectra_of_pairs(planes[: 2 * pairs]) for planes in layers]
    single = [[spectrum(plane, size) for plane in planes[2 * pairs :]] for planes in layers]

    def with_kernels(kernels):
        transfers = transfer(kernels, size, symmetric=symmetric)
        half_width = size[1] // 2 + 1
        halves = [tuple(part[:, :half_width] for part in parts) for parts in transfers]
        sums = [_dot_complex(planes, transfers) for planes in zip(*paired, strict=True)]
        blurred = crop(jnp.fft.ifft2(from_channels(tuple(sums))), half_size_px, frame)
        planes = [part(pair) for pair in channels(blurred) for part in (jnp.real, jnp.imag)]
        for spectra in zip(*single, strict=True):
            product = _dot_complex(spectra, halves)
            planes.append(crop(jnp.fft.irfft2(product, s=size), half_size_px, frame))
        return from_channels(tuple(planes))

    batch = layers[0][0].shape[0]
    nothing = jnp.zeros((batch, len(layers[0]), *frame), layers[0][0].dtype)
    sums = sum_over_zones(with_kernels, kernels.swapaxes(0, 1), *hats, nothing)
    return list(channels(sums))


def _spectra_of_pairs(
    planes: Sequence[Float[Array, "b hp wp"]],
) -> tuple[Complex[Array, "b hp wp"], ...]:
    """Transforms of an even number of planes, two in each."""
    pairs = [jax.lax.complex(a, b) for a, b in zip(planes[::2], planes[1::2], strict=True)]
    return channels(jnp.fft.fft2(from_channels(tuple(pairs))))


# Otherwise a TPU rounds the factors to bfloat16 (a GPU to TensorFloat-32), and with them kernels.
@jax.default_matmul_precision("highest")
def transfer(
    kernels: Float[Array, "n k k"], size: tuple[int, int], *, symmetric: bool
) -> list[tuple[Float[Array, "u v"], ...]]:
    """Real and imaginary part of the spectra of small kernels whose middle is the origin.

    Those of symmetric kernels are real, and have no second part. By products with the matrices of
    the transform: as many operations as a fast transform of the whole frame for kernels of a few
    pixels, at the speed of a matrix product.
    """
    (row_cos, row_sin), (col_cos, col_sin) = (
        _waves(length, kernels.shape[-1], kernels.dtype) for length in size
    )
    spectra = []
    for kernel in kernels:
        by_cos, by_sin = row_cos @ kernel, row_sin @ kernel
        parts = (by_cos @ col_cos.T - by_sin @ col_sin.T,)
        if not symmetric:
            parts = (*parts, -(by_cos @ col_sin.T + by_sin @ col_cos.T))
        spectra.append(parts)
    return spectra


def _waves(length: int, taps: int, dtype: jnp.dtype) -> tuple[Array, Array]:
    """cos and sin of 2 pi u x / length, for u < length and x from -(taps // 2) on."""
    offsets = np.arange(taps) - taps // 2
    angle = 2 * np.pi / length * (np.outer(np.arange(length), offsets) % length)
    return jnp.asarray(np.cos(angle), dtype), jnp.asarray(np.sin(angle), dtype)


def _dot_complex(planes, transfers) -> Complex[Array, "b u v"]:
    """Sum of products; by parts, because products of complex numbers are not vectorised."""
    real, imaginary = 0.0, 0.0
    for plane, (cosine, *sine) in zip(planes, transfers, strict=True):
        own_real, own_imaginary = jax.lax.real(plane), jax.lax.imag(plane)
        real += own_real * cosine[None]
        imaginary += own_imaginary * cosine[None]
        for wave in sine:
            real -= own_imaginary * wave[None]
            imaginary += own_real * wave[None]
    return jax.lax.complex(real, imaginary)


def sum_over_zones(
    blurred: Callable[[Array], Array],
    kernels: Float[Array, "z *k"],
    rows: Float[Array, "z h"],
    columns: Float[Array, "z w"],
    nothing: Float[Array, "*n h w"],
) -> Float[Array, "*n h w"]:
    """Add up `blurred(kernels[z])`, each weighted; `nothing` is the empty sum."""
    if len(kernels) == 1:
        return blurred(kernels[0])

    def add_zone(total, zone):
        kernel, row, column = zone
        weight = jnp.expand_dims(row[:, None] * column[None, :], range(nothing.ndim - 2))
        return total + blurred(kernel) * weight, None

    total, _ = jax.lax.scan(add_zone, nothing, (kernels, rows, columns))
    return total
