import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bokeh_jax.optics.blur import blur_sum, fast_fft_size, padded_fft_shape, transfer


def convolve_directly(plane, kernel):
    half = kernel.shape[0] // 2
    height, width = plane.shape
    padded = np.pad(plane, half, mode="edge")
    total = np.zeros(plane.shape)
    for dy in range(-half, half + 1):
        for dx in range(-half, half + 1):
            # A point-spread function: light moves by (dx, dy).
            shifted = padded[half - dy : half - dy + height, half - dx : half - dx + width]
            total += kernel[half + dy, half + dx] * shifted
    return total


@pytest.mark.parametrize(
    ("shape", "half", "num_zones", "symmetric"),
    [((9, 4), 3, 4, False), ((5, 5), 2, 1, True), ((1, 7), 0, 1, False), ((6, 11), 1, 4, True)],
)
def test_blurs_are_sums_over_layers_weighted_where_light_arrives(shape, half, num_zones, symmetric):
    random = np.random.default_rng(half)
    # By layer, plane and example.
    planes = random.random((2, 3, 2, *shape), np.float32)
    kernels = random.random((2, num_zones, 2 * half + 1, 2 * half + 1), np.float32)
    if symmetric:
        kernels += kernels[..., ::-1, ::-1]
    hats = tuple(random.random((num_zones, length), np.float32) for length in shape)
    if num_zones == 1:
        hats = tuple(np.ones_like(lines) for lines in hats)
    size = padded_fft_shape(shape, half)
    after = [(half, full - half - own) for full, own in zip(size, shape, strict=True)]
    padded = np.pad(planes, [(0, 0)] * 3 + after, mode="edge")

    @jax.jit
    def blur(layers, kernels, hats):
        return blur_sum(
            [list(layer) for layer in layers], kernels, hats, size, shape, symmetric=symmetric
        )

    blurred = blur(padded, kernels, hats)
    weights = hats[0][:, :, None] * hats[1][:, None, :]
    for plane, example in np.ndindex(3, 2):
        expected = sum(
            weights[z] * convolve_directly(planes[n, plane, example], kernels[n, z])
            for n, z in np.ndindex(2, num_zones)
        )
        np.testing.assert_allclose(
            blurred[plane][example], expected, atol=4e-6 * kernels.sum(), rtol=0
        )


@pytest.mark.parametrize("size", [*range(1, 70), 241, 632, 1023])
def test_transform_sizes_are_the_least_even_ones_of_small_factors(size):
    smooth = sorted(2**a * 3**b * 5**c for a in range(1, 12) for b in range(8) for c in range(6))
    assert fast_fft_size(size) == next(number for number in smooth if number >= size)


def test_spectra_of_symmetric_kernels_are_real():
    kernel = np.random.default_rng(0).random((1, 5, 5), np.float32)
    kernel += kernel[:, ::-1, ::-1]
    rolled = np.zeros((12, 10), np.float32)
    rolled[:5, :5] = kernel[0]
    expected = np.fft.fft2(np.roll(rolled, (-2, -2), (0, 1)))
    ((real,),) = transfer(jnp.asarray(kernel), (12, 10), symmetric=True)
    np.testing.assert_allclose(real, expected.real, atol=1e-5)
    np.testing.assert_allclose(expected.imag, 0, atol=1e-5)


def test_accelerators_do_not_round_the_factors_of_kernels_spectra():
    program = jax.make_jaxpr(lambda kernels: transfer(kernels, (8, 8), symmetric=False))(
        jnp.ones((1, 3, 3))
    )
    products = str(program).split("dot_general")[1:]
    assert products
    for product in products:
        assert "precision=(Precision.HIGHEST, Precision.HIGHEST)" in product
