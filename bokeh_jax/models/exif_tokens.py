"""What EXIF says of a camera as tokens beside a prompt's ("Camera Settings as Tokens").

With f-number N, focal length f, a sensor W wide in the frame and the opening's radius r = f / 2N:

    (1) u = (log₂ N, log₂ f/W, log₂ r/10 mm) / 8
    (2) token_i = W_i γ(u_i) + b_i      where EXIF is given, γ of `conditions`, equation (1)
                = null_i, learned       where it is not

A token has the width of a text token and stands after the prompt's, so the transformer needs no
layer for it. N and f/W are what files say; r is what a thin lens blurs by, and follows from them
where W is known (the same view from a larger sensor has a larger opening).

After Fang et al. 2024, "Camera Settings as Tokens" (SIGGRAPH Asia), who embed such numbers and
append them to the text; Fourier features and null tokens are those of `conditions`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Key

from bokeh_jax.models.conditions import fourier_features
from bokeh_jax.models.linear import linear
from bokeh_jax.optics import Exif

# The tokens' part of the network's tree.
EXIF_TOKENS = "exif_tokens"
NUM_EXIF_TOKENS = 3
_NAMES = ("f_number", "view", "opening")
# Of values in octaves: what cameras have lies in about ±0.6 then, within half a period of the
# slowest feature.
_OCTAVES = 8.0
_OPENING_M = 0.01


class ExifTokens(nn.Module):
    """Equation (2); parameters are `null` and a layer for each of the numbers.

    Attributes:
        width: features of a token.
    """

    width: int

    @nn.compact
    def __call__(self, exif: Exif, given: Float[Array, " b"]) -> Float[Array, "b 3 c"]:
        """Tokens, float32; where `given` is 0 they do not depend on `exif`."""
        shape = (NUM_EXIF_TOKENS, self.width)
        null: Any = self.param("null", nn.initializers.normal(0.02), shape, jnp.float32)
        values = exif_octaves(exif)
        tokens = jnp.stack(
            [
                linear(self.width, ("features", "embed"), dtype=jnp.float32, name=name)(
                    fourier_features(values[:, index : index + 1])
                )
                for index, name in enumerate(_NAMES)
            ],
            axis=1,
        )
        # A choice and no product: what stands in the place of unknown EXIF may be anything.
        return jnp.where((given > 0)[:, None, None], tokens, null[None].astype(tokens.dtype))


def exif_octaves(exif: Exif) -> Float[Array, "b 3"]:
    """Equation (1)."""
    view = exif.focal_length_m / exif.sensor_width_m
    opening = exif.opening_radius_m / _OPENING_M
    return jnp.log2(jnp.stack((exif.f_number, view, opening), axis=-1)) / _OCTAVES


def init_params(width: int, key: Key[Array, ""]) -> dict[str, Any]:
    """Start values as a plain tree of float32 arrays; may be traced."""
    return dict(nn.unbox(_init_boxed(width, key)))


def parameter_axes(width: int) -> dict[str, Any]:
    """A tree like the parameters' with a `PartitionSpec` of axis names in each one's place."""
    boxed = jax.eval_shape(lambda key: _init_boxed(width, key), jax.random.key(0))
    return dict(nn.get_partition_spec(boxed))


def exif_tokens(
    params: dict[str, Any], exif: Exif, given: Float[Array, " b"]
) -> Float[Array, "b 3 c"]:
    """`ExifTokens.__call__` as a pure function of the parameters."""
    tokens: Any = ExifTokens(params["null"].shape[1]).apply({"params": params}, exif, given)
    return tokens


def _init_boxed(width: int, key: Key[Array, ""]) -> Any:
    """Start values with the names of their axes."""
    exif = Exif(jnp.ones((1,)), jnp.ones((1,)), jnp.ones((1,)))
    return ExifTokens(width).init(key, exif, jnp.ones((1,)))["params"]
