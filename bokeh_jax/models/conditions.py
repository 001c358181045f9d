"""What a refocusing model is told beside the noisy image, and how parts of it are withheld.

Every part that may be unknown has a flag. A part whose flag is 0 is cut here, before any layer sees
it, so that the output cannot depend on what stands in its place:

    camera_given            focus_point, blur, and with the disparity: focus_disparity, the target's
                            defocus and the guess
    disparity_given         focus_disparity, both defocus maps and the guess
    reference_camera_given  the reference's defocus

A cut guess is the reference; a cut map is zero. The images are in the values that the network works
in, sRGB-encoded in [-1, 1] or latents; the maps have their height and width.

The numbers of a camera enter as Fourier features (Tancik et al. 2020, with octaves as frequencies):

    (1) γ(u) = [u, cos 2π f_j u, sin 2π f_j u],   f_j = 2^(j−1),  j = 0 … 7
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from bokeh_jax.errors import InvalidInput
from bokeh_jax.models.config import DiTConfig
from bokeh_jax.models.linear import linear
from bokeh_jax.pytree import pytree_dataclass

# A wide aperture blurs by about 5 % of the width: radii and K over the width come to unit order.
DEFOCUS_SCALE = 20.0

NUM_OCTAVES = 8
NUM_CAMERA_TOKENS = 4


@pytree_dataclass
class Conditions:
    """Conditions of a batch; every array float32, flags 0 or 1.

    Attributes:
        reference: The photograph to refocus.
        guess: A first rendering of the target from the reference and its disparity, same values.
        target_defocus: Signed radius of the wanted blur over the image's width.
        reference_defocus: Signed radius of the blur that the reference has, over the width.
        disparity_given: Whether a disparity map is known.
        reference_camera_given: Whether the reference's camera, and so its defocus, is known.
        focus_point: Wanted point of focus (x, y) in [0, 1].
        focus_disparity: Disparity there.
        blur: Blur per unit of disparity over the width, K / width.
        camera_given: Whether the wanted camera is known.
        text: Text tokens; None for none.
        pooled: Pooled text embedding; None for none.
    """

    reference: Float[Array, "b h w c"]
    guess: Float[Array, "b h w c"]
    target_defocus: Float[Array, "b h w"]
    reference_defocus: Float[Array, "b h w"]
    disparity_given: Float[Array, " b"]
    reference_camera_given: Float[Array, " b"]
    focus_point: Float[Array, "b 2"]
    focus_disparity: Float[Array, " b"]
    blur: Float[Array, " b"]
    camera_given: Float[Array, " b"]
    text: Float[Array, "b t d"] | None = None
    pooled: Float[Array, "b p"] | None = None

    @classmethod
    def of_reference(
        cls,
        reference: Float[Array, "b h w c"],
        text: Float[Array, "b t d"] | None = None,
        pooled: Float[Array, "b p"] | None = None,
    ) -> "Conditions":
        """Nothing known but the reference (and the text)."""
        maps = jnp.zeros(reference.shape[:3], reference.dtype)
        scalars = jnp.zeros(reference.shape[:1], reference.dtype)
        return cls(
            reference=reference,
            guess=reference,
            target_defocus=maps,
            reference_defocus=maps,
            disparity_given=scalars,
            reference_camera_given=scalars,
            focus_point=jnp.zeros((reference.shape[0], 2), reference.dtype),
            focus_disparity=scalars,
            blur=scalars,
            camera_given=scalars,
            text=text,
            pooled=pooled,
        )

    def without_camera(self) -> "Conditions":
        """The unconditional side of guidance: reference and text only, all flags 0."""
        return Conditions.of_reference(self.reference, self.text, self.pooled)

    def without_disparity(self) -> "Conditions":
        """The camera is known as a point and a blur, the scene's depth is not."""
        nothing = self.without_camera()
        return replace(
            nothing,
            focus_point=self.focus_point,
            blur=self.blur,
            camera_given=self.camera_given,
            reference_camera_given=self.reference_camera_given,
        )

    def visible(self) -> "Conditions":
        """The same with every part cut that its flags withhold, as the header lists them."""
        focus_given = self.camera_given * self.disparity_given
        reference_given = self.reference_camera_given * self.disparity_given
        return replace(
            self,
            guess=_where_given(focus_given, self.guess, self.reference),
            target_defocus=_where_given(focus_given, self.target_defocus),
            reference_defocus=_where_given(reference_given, self.reference_defocus),
            focus_point=_where_given(self.camera_given, self.focus_point),
            focus_disparity=_where_given(focus_given, self.focus_disparity),
            blur=_where_given(self.camera_given, self.blur),
        )


@pytree_dataclass
class TextOnly:
    """What a network of text alone is told: no reference, no camera, and no tokens for them.

    Attributes:
        text: Text tokens; None for none.
        pooled: Pooled text embedding; None for none.
    """

    text: Float[Array, "b t d"] | None = None
    pooled: Float[Array, "b p"] | None = None


def fourier_features(values: Float[Array, "b k"]) -> Float[Array, "b features"]:
    """Equation (1) of each value, float32: `k (1 + 2 NUM_OCTAVES)` features."""
    octaves = 2.0 ** np.arange(-1, NUM_OCTAVES - 1)
    frequency = jnp.asarray(2.0 * np.pi * octaves[None, None, :], jnp.float32)
    wide = values.astype(jnp.float32)[:, :, None]
    features = jnp.concatenate((wide, jnp.cos(wide * frequency), jnp.sin(wide * frequency)), axis=2)
    return features.reshape(values.shape[0], -1)


class CameraTokens(nn.Module):
    """The camera as context tokens: focus point, focus disparity, blur, and the flags.

    Each of the first three is a linear map of its Fourier features, or a learned null token where
    it is not given. The fourth is a linear map of the three flags.
    """

    config: DiTConfig

    @nn.compact
    def __call__(self, visible: Conditions) -> Float[Array, "b 4 c"]:
        """Tokens of conditions that went through `Conditions.visible`."""
        config = self.config
        camera_given, point = visible.camera_given, visible.focus_point
        if point is None:
            raise InvalidInput(
                "focus_point is None; allowed: an array, where a camera is asked for"
            )
        focus_given = camera_given * visible.disparity_given
        values = {
            "focus_point": (visible.focus_point, camera_given),
            "focus_disparity": (visible.focus_disparity[:, None], focus_given),
            "blur": (DEFOCUS_SCALE * visible.blur[:, None], camera_given),
        }
        shape = (len(values), config.hidden_dim)
        null = self.param("null", nn.initializers.normal(0.02), shape, jnp.float32)
        tokens = []
        for index, (name, (value, given)) in enumerate(values.items()):
            layer = linear(
                config.hidden_dim, ("features", "embed"), dtype=config.compute_dtype, name=name
            )
            token = layer(fourier_features(value))
            tokens.append(_where_given(given, token, null[index][None].astype(token.dtype)))
        flags = jnp.stack(
            (camera_given, visible.disparity_given, visible.reference_camera_given), axis=-1
        )
        flag_layer = linear(
            config.hidden_dim, ("features", "embed"), dtype=config.compute_dtype, name="flags"
        )
        tokens.append(flag_layer(flags))
        return jnp.stack(tokens, axis=1)


def _where_given(
    given: Float[Array, " b"], value: Float[Array, "b ..."], otherwise: Array | None = None
) -> Float[Array, "b ..."]:
    """`value` where the flag is set, else `otherwise` (zeros): a choice, so NaNs are cut too."""
    mask = (given > 0).reshape(given.shape[0], *(1,) * (value.ndim - 1))
    if otherwise is None:
        otherwise = jnp.zeros_like(value)
    return jnp.where(mask, value, jnp.broadcast_to(otherwise, value.shape))


def check_text(name: str, text: jax.Array | None, features: int | None) -> None:
    """Whether `text` or `pooled` of a batch suits a model that takes so many features of it.

    Raises:
        InvalidInput: it does not.
    """
    if text is None:
        return
    field = f"{name}_dim is {features}"
    if features is None:
        raise InvalidInput(f"{name} has shape {text.shape}; allowed: None, as {field}")
    if text.shape[-1] != features:
        raise InvalidInput(f"{name} has {text.shape[-1]} features; allowed: {features}, as {field}")
