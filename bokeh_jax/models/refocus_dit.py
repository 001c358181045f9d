"""Refocusing as a conditional transformer in pixels, in FLUX's layout (DiffCamera, 2509.26599).

Images are cut into p × p patches, one token each; features of a token are ordered (channel, row,
column) as in FLUX, those of the noisy image first. The reference enters in one of two ways:

    'channels'   every token holds noisy, reference, guess, both defocus maps and their two flags
                 at its place: 13 p² features, half the sequence or less. For small models.
    'tokens'     noisy tokens are followed by the reference's (and the guess's, if so configured),
                 told apart by the first position axis. Every token holds an image, the defocus map
                 that belongs to it and its flag: 5 p² features. What imported weights want.

The defocus maps spare the network from learning the lens formula: they are the formula's result.
The context is text, if any, then the camera's tokens.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key

from bokeh_jax.errors import InvalidInput
from bokeh_jax.models.attention import AttentionKernel
from bokeh_jax.models.conditions import (
    DEFOCUS_SCALE,
    NUM_CAMERA_TOKENS,
    CameraTokens,
    Conditions,
    check_text,
)
from bokeh_jax.models.config import (
    ComputeDtype,
    DiTConfig,
    Remat,
    check_at_least,
    check_choice,
)
from bokeh_jax.models.dit import DiT
from bokeh_jax.models.rope import grid_ids

ReferenceAs = Literal["channels", "tokens"]
REFERENCE_AS: tuple[ReferenceAs, ...] = ("channels", "tokens")

# noisy 3, reference 3, guess 3, target defocus 1, reference defocus 1, their flags 2
_PIXEL_CHANNELS = 13
# image 3, its defocus 1, the flag 1
_STREAM_CHANNELS = 5


@dataclass(frozen=True)
class RefocusConfig:
    """A refocusing transformer; the fields below `text_dim` are those of `DiTConfig`.

    Attributes:
        patch_size: Edge of a patch in pixels.
        reference_as: 'channels' or 'tokens', see the module's header.
        guess_tokens: With 'tokens', whether the guess gets tokens of its own.
        text_dim: Features of a text token; None for a model without text.
    """

    patch_size: int = 8
    reference_as: ReferenceAs = "channels"
    guess_tokens: bool = True
    text_dim: int | None = None
    hidden_dim: int = 256
    num_heads: int = 4
    mlp_ratio: float = 4.0
    num_double_blocks: int = 2
    num_single_blocks: int = 4
    rope_axes_dim: tuple[int, int, int] = (8, 28, 28)
    rope_theta: float = 10_000.0
    compute_dtype: ComputeDtype = "bfloat16"
    remat: Remat = "none"
    attention: AttentionKernel = "xla"
    scan_blocks: bool = True

    def __post_init__(self) -> None:
        check_at_least("patch_size", self.patch_size, 1)
        check_choice("reference_as", self.reference_as, REFERENCE_AS)
        if self.text_dim is not None:
            check_at_least("text_dim", self.text_dim, 1)
        self.dit_config()  # Its fields are checked there.

    def dit_config(self) -> DiTConfig:
        """The transformer inside."""
        per_pixel = _PIXEL_CHANNELS if self.reference_as == "channels" else _STREAM_CHANNELS
        area = self.patch_size**2
        return DiTConfig(
            in_channels=per_pixel * area,
            out_channels=3 * area,
            hidden_dim=self.hidden_dim,
            num_heads=self.num_heads,
            mlp_ratio=self.mlp_ratio,
            num_double_blocks=self.num_double_blocks,
            num_single_blocks=self.num_single_blocks,
            rope_axes_dim=self.rope_axes_dim,
            rope_theta=self.rope_theta,
            context_dim=self.text_dim,
            compute_dtype=self.compute_dtype,
            remat=self.remat,
            attention=self.attention,
            scan_blocks=self.scan_blocks,
        )


class RefocusDiT(nn.Module):
    """The network; parameters are `dit` and `camera`."""

    config: RefocusConfig

    @nn.compact
    def __call__(
        self,
        noisy: Float[Array, "b h w 3"],
        time: Float[Array, " b"],
        conditions: Conditions,
    ) -> Float[Array, "b h w 3"]:
        """The network's output in image space, float32; what it means is the objective's choice.

        Args:
            noisy: The point of the flow's path.
            time: Flow time in [0, 1].
            conditions: The reference and what is known of cameras and depth.

        Raises:
            InvalidInput: where height or width are no multiples of the patch size, or the text does
                not fit `text_dim`.
        """
        config = self.config
        height_px, width_px = noisy.shape[1:3]
        _check_size(height_px, width_px, config.patch_size)
        if (problem := check_text(conditions.text, config.text_dim)) is not None:
            raise InvalidInput(problem)
        visible = conditions.visible()
        dit_config = config.dit_config()
        tokens, ids = _image_tokens(config, noisy, visible)
        camera = CameraTokens(dit_config, name="camera")(visible)
        num_text = 0 if visible.text is None else visible.text.shape[1]
        context_ids = jnp.zeros((noisy.shape[0], num_text + NUM_CAMERA_TOKENS, 3), jnp.int32)
        out = DiT(dit_config, name="dit")(
            tokens, ids, visible.text, context_ids, time, hidden_context=camera
        )
        num_noisy = height_px * width_px // config.patch_size**2
        return unpatchify(out[:, :num_noisy], config.patch_size, height_px, width_px)


def init_params(
    config: RefocusConfig, key: Key[Array, ""], height_px: int, width_px: int
) -> dict[str, Any]:
    """Start values as a plain tree of float32 arrays; may be jitted or given to `eval_shape`.

    The size only has to be one that the model accepts: no parameter depends on it.
    """
    return dict(nn.unbox(_init_boxed(config, key, height_px, width_px)))


def _init_boxed(config: RefocusConfig, key: Key[Array, ""], height_px: int, width_px: int) -> Any:
    """Start values with the names of their axes."""
    image = jnp.zeros((1, height_px, width_px, 3), jnp.float32)
    text = None if config.text_dim is None else jnp.zeros((1, 1, config.text_dim), jnp.float32)
    conditions = Conditions.of_reference(image, text)
    time = jnp.zeros((1,), jnp.float32)
    return RefocusDiT(config).init(key, image, time, conditions)["params"]


def parameter_axes(config: RefocusConfig) -> dict[str, Any]:
    """A tree like the parameters' with a `PartitionSpec` of axis names in each one's place.

    Names are None where an axis has none; a parameter without names has an empty specification.
    """
    boxed = jax.eval_shape(
        lambda key: _init_boxed(config, key, config.patch_size, config.patch_size),
        jax.random.key(0),
    )
    return dict(nn.get_partition_spec(boxed))


def apply(
    config: RefocusConfig,
    params: dict[str, Any],
    noisy: Float[Array, "b h w 3"],
    time: Float[Array, " b"],
    conditions: Conditions,
) -> Float[Array, "b h w 3"]:
    """`RefocusDiT.__call__` as a pure function of the parameters."""
    out = RefocusDiT(config).apply({"params": params}, noisy, time, conditions)
    assert isinstance(out, Array)  # `apply` may return state too, which this module has none of.
    return out


def patchify(image: Float[Array, "b h w c"], patch_size: int) -> Float[Array, "b n f"]:
    """Patches in row-major order, features ordered (channel, row, column).

    Raises:
        InvalidInput: where height or width are no multiples of the patch size.
    """
    batch, height_px, width_px, channels = image.shape
    _check_size(height_px, width_px, patch_size)
    rows, columns = height_px // patch_size, width_px // patch_size
    cut = image.reshape(batch, rows, patch_size, columns, patch_size, channels)
    return cut.transpose(0, 1, 3, 5, 2, 4).reshape(batch, rows * columns, -1)


def unpatchify(
    tokens: Float[Array, "b n f"], patch_size: int, height_px: int, width_px: int
) -> Float[Array, "b h w c"]:
    """The image whose patches these are: the inverse of `patchify`."""
    rows, columns = height_px // patch_size, width_px // patch_size
    cut = tokens.reshape(tokens.shape[0], rows, columns, -1, patch_size, patch_size)
    return cut.transpose(0, 1, 4, 2, 5, 3).reshape(tokens.shape[0], height_px, width_px, -1)


def _image_tokens(
    config: RefocusConfig, noisy: Float[Array, "b h w 3"], visible: Conditions
) -> tuple[Float[Array, "b n f"], Int[Array, "b n 3"]]:
    """Tokens and positions of the noisy image and, with 'tokens', of its references."""
    dtype = noisy.dtype
    target_given = (visible.camera_given * visible.disparity_given).astype(dtype)
    reference_given = (visible.reference_camera_given * visible.disparity_given).astype(dtype)
    target = _defocus_channels(visible.target_defocus, target_given)
    reference = _defocus_channels(visible.reference_defocus, reference_given)
    if config.reference_as == "channels":
        defocus, given = (
            jnp.concatenate(pair, axis=-1) for pair in zip(target, reference, strict=True)
        )
        streams = [(noisy, visible.reference, visible.guess, defocus, given)]
    else:
        streams = [(noisy, *target), (visible.reference, *reference)]
        if config.guess_tokens:
            streams.append((visible.guess, *target))
    batch, height_px, width_px, _ = noisy.shape
    rows, columns = height_px // config.patch_size, width_px // config.patch_size
    cut = partial(patchify, patch_size=config.patch_size)
    tokens = [cut(jnp.concatenate(stream, axis=-1)) for stream in streams]
    ids = [grid_ids(index, rows, columns, batch) for index in range(len(streams))]
    return jnp.concatenate(tokens, axis=1), jnp.concatenate(ids, axis=1)


def _defocus_channels(
    defocus: Float[Array, "b h w"], given: Float[Array, " b"]
) -> tuple[Float[Array, "b h w 1"], Float[Array, "b h w 1"]]:
    """A map of unit order and its flag as an image."""
    scaled = DEFOCUS_SCALE * defocus[..., None]
    return scaled, jnp.broadcast_to(given[:, None, None, None], scaled.shape)


def _check_size(height_px: int, width_px: int, patch_size: int) -> None:
    if height_px % patch_size or width_px % patch_size or not height_px * width_px:
        raise InvalidInput(
            f"image size is {height_px} x {width_px} px; allowed: positive multiples of "
            f"patch_size {patch_size} px"
        )
