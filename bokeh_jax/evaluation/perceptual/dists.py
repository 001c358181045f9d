"""DISTS: structure and texture of two pictures, compared by the activations of VGG-16.

    d(a, b) = 1 − Σ over maps i of  α_i l(a_i, b_i) + β_i s(a_i, b_i),        Σ (α + β) = 1
    l = (2 μ_a μ_b + c) / (μ_a² + μ_b² + c)       same mean: texture
    s = (2 σ_ab + c) / (σ_a² + σ_b² + c)          same variation: structure,      c = 1e-6

with means, variances and covariance over whole maps: the picture itself and the channels of the
five stages of VGG-16, in which L2 pooling with a Hann window takes the place of max pooling. 0 for
equal pictures; larger is worse. Ding, Ma, Wang & Simoncelli, "Image quality assessment: unifying
structure and texture similarity", PAMI 2020 (github.com/dingkeyan93/DISTS).

Pictures are compared at their own size. (The authors' script first shrinks those whose smaller side
is above 256 px, their network does not.)

Tensors are named as in that repository's `DISTS().state_dict()`:
`stage{1..5}.{index}.{weight,bias}`, and `alpha`, `beta` [1, 1475, 1, 1].
"""

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bokeh_jax.evaluation.perceptual import trunks
from bokeh_jax.evaluation.perceptual.weights import Tensors, read_file

# Along the channels of [b, h, w, 3].
_MEAN = np.array([0.485, 0.456, 0.406], np.float32).reshape(1, 1, 1, 3)
_STD = np.array([0.229, 0.224, 0.225], np.float32).reshape(1, 1, 1, 3)
_C = 1e-6
_PREFIX = "stage"
_CHANNELS = (3, *(stage[-1].shape[0] for stage in trunks.STAGES["vgg"]))
# Constants of the published module.
_IGNORED = ("mean", "std", "stage2.4.", "stage3.9.", "stage4.16.", "stage5.23.")


def load_dists(
    path: Path,
) -> Callable[[Float[Array, "b h w 3"], Float[Array, "b h w 3"]], Float[Array, " b"]]:
    """The distance by a file's weights: (pictures, truths), sRGB in [0, 1] -> [b].

    Raises:
        InvalidInput: the file is not one of DISTS.
    """
    shapes = trunks.tensor_shapes("vgg", _PREFIX)
    shapes |= dict.fromkeys(("alpha", "beta"), (1, sum(_CHANNELS), 1, 1))
    return functools.partial(_distance, read_file(path, shapes, _IGNORED))


@jax.jit
def _distance(
    tensors: Tensors, images: Float[Array, "b h w 3"], truths: Float[Array, "b h w 3"]
) -> Float[Array, " b"]:
    least = trunks.LEAST_SIDE_PX["vgg"]
    if min(images.shape[1:3]) < least:
        raise ValueError(f"pictures are {images.shape[1:3]}; allowed: {least} px a side or more")
    both = jnp.concatenate([images, truths])
    planes = ((both - _MEAN) / _STD).transpose(0, 3, 1, 2)
    maps = trunks.features(tensors, "vgg", _PREFIX, planes, _l2_pool)
    maps = [both.transpose(0, 3, 1, 2), *maps]
    ends = np.cumsum(_CHANNELS)[:-1].tolist()
    alphas, betas = (jnp.split(tensors[name].reshape(-1), ends) for name in ("alpha", "beta"))
    same = jnp.zeros(images.shape[0])
    for seen, alpha, beta in zip(maps, alphas, betas, strict=True):
        mine, other = jnp.split(seen, 2)
        mean_a, mean_b = jnp.mean(mine, axis=(2, 3)), jnp.mean(other, axis=(2, 3))
        # Deviations, not differences of means of squares: nothing cancels.
        a, b = mine - mean_a[..., None, None], other - mean_b[..., None, None]
        var_a, var_b = jnp.mean(a**2, axis=(2, 3)), jnp.mean(b**2, axis=(2, 3))
        covariance = jnp.mean(a * b, axis=(2, 3))
        texture = (2 * mean_a * mean_b + _C) / (mean_a**2 + mean_b**2 + _C)
        structure = (2 * covariance + _C) / (var_a + var_b + _C)
        same += jnp.sum(alpha[None] * texture + beta[None] * structure, axis=1)
    return 1.0 - same / (jnp.sum(tensors["alpha"]) + jnp.sum(tensors["beta"]))


def _l2_pool(x: trunks.Planes) -> trunks.Planes:
    """√(Hann window * x²) at every second pixel."""
    taps = np.hanning(5)[1:-1]
    kernel = np.outer(taps, taps) / np.outer(taps, taps).sum()
    kernels = jnp.broadcast_to(jnp.asarray(kernel, jnp.float32), (x.shape[1], 1, 3, 3))
    return jnp.sqrt(trunks.convolve(x**2, kernels, 2, 1, groups=x.shape[1]) + 1e-12)
