import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bokeh_jax.optics.blur import blur, fast_fft_size


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


@settings(deadline=None, max_examples=10)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([(1, 7), (5, 5), (9, 4), (16, 16)]),
    st.integers(0, 3),
)
def test_blur_is_the_direct_sum_with_edges_continued(seed, shape, half):
    random = np.random.default_rng(seed)
    planes = random.random((2, 3, *shape), np.float32)
    kernel = random.random((2 * half + 1, 2 * half + 1), np.float32)
    blurred = np.asarray(blur(jnp.asarray(planes), jnp.asarray(kernel)))
    for index in np.ndindex(2, 3):
        expected = convolve_directly(planes[index], kernel)
        np.testing.assert_allclose(blurred[index], expected, atol=2e-6 * kernel.sum())


@pytest.mark.parametrize("size", [*range(1, 70), 241, 632, 1023])
def test_transform_sizes_are_the_least_even_ones_of_small_factors(size):
    smooth = sorted(2**a * 3**b * 5**c for a in range(1, 12) for b in range(8) for c in range(6))
    assert fast_fft_size(size) == next(number for number in smooth if number >= size)
