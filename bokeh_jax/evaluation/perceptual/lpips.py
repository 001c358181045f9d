"""LPIPS: distance of two pictures in the activations of a network that knows photographs.

    d(a, b) = Σ over stages l of  mean over pixels of  Σ_c w_lc (â_lc − b̂_lc)²

â_l are the activations of stage l (`trunks`), divided at every pixel by their length over the
channels; w_l ≥ 0 are weights fitted to people's judgements. 0 for equal pictures; larger is worse.
Pictures enter as 2 x − 1, shifted and scaled by fixed constants. Version 0.1 of Zhang, Isola,
Efros, Shechtman & Wang, "The unreasonable effectiveness of deep features as a perceptual metric",
CVPR 2018 (github.com/richzhang/PerceptualSimilarity).

Tensors are named as in that repository's `LPIPS(net="alex" | "vgg").state_dict()`:
`net.slice{1..5}.{index}.{weight,bias}` and `lin{0..4}.model.1.weight` [1, c, 1, 1].
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
_SHIFT = np.array([-0.030, -0.088, -0.188], np.float32).reshape(1, 1, 1, 3)
_SCALE = np.array([0.458, 0.448, 0.450], np.float32).reshape(1, 1, 1, 3)
_LEAST_LENGTH = 1e-10
_PREFIX = "net.slice"
_POOL_PX = {"alex": 3, "vgg": 2}
# Constants, and second names of the `lin` layers.
_IGNORED = ("scaling_layer.", "lins.")


def load_lpips(
    path: Path, network: trunks.Network
) -> Callable[[Float[Array, "b h w 3"], Float[Array, "b h w 3"]], Float[Array, " b"]]:
    """The distance by a file's weights: (pictures, truths), sRGB in [0, 1] -> [b].

    Raises:
        InvalidInput: the file is not one of this network's.
    """
    shapes = trunks.tensor_shapes(network, _PREFIX)
    for number, stage in enumerate(trunks.STAGES[network]):
        shapes[f"lin{number}.model.1.weight"] = (1, stage[-1].shape[0], 1, 1)
    return functools.partial(_distance, read_file(path, shapes, _IGNORED), network)


@functools.partial(jax.jit, static_argnames="network")
def _distance(
    tensors: Tensors,
    network: trunks.Network,
    images: Float[Array, "b h w 3"],
    truths: Float[Array, "b h w 3"],
) -> Float[Array, " b"]:
    least = trunks.LEAST_SIDE_PX[network]
    if min(images.shape[1:3]) < least:
        raise ValueError(f"pictures are {images.shape[1:3]}; allowed: {least} px a side or more")
    both = jnp.concatenate([images, truths])
    planes = ((2.0 * both - 1.0 - _SHIFT) / _SCALE).transpose(0, 3, 1, 2)
    pool = functools.partial(trunks.max_pool, size=_POOL_PX[network])
    total = jnp.zeros(images.shape[0])
    for number, seen in enumerate(trunks.features(tensors, network, _PREFIX, planes, pool)):
        length = jnp.sqrt(jnp.sum(seen**2, axis=1, keepdims=True))
        mine, other = jnp.split(seen / (length + _LEAST_LENGTH), 2)
        weights = tensors[f"lin{number}.model.1.weight"]
        total += jnp.mean(jnp.sum(weights * (mine - other) ** 2, axis=1), axis=(1, 2))
    return total
