"""Refocusing as a conditional transformer in FLUX's layout (DiffCamera, 2509.26599).

Images are photographs of 3 channels or latents of more. They are cut into p × p patches, one token
each; features of a token are ordered (channel, row, column) as in FLUX, those of the noisy image
first. With c channels an image, the reference enters in one of two ways:

    'channels'   every token holds noisy, reference, guess, both defocus maps and their two flags
                 at its place: (3 c + 4) p² features, half the sequence or less. For small models.
    'tokens'     noisy tokens are followed by the reference's (and the guess's, if so configured),
                 told apart by the first position axis. Every token holds an image, c p² features,
                 and gets a linear map of the 2 p² features of its defocus map and flag added, which
                 starts at 0: so imported weights meet what they were trained with.

With 'tokens', reference and guess see all tokens (`reference_sees` 'all': what imported weights
were trained with), or themselves only, as condition tokens at time 0 ('itself',
`condition_cache.py`).

The defocus maps spare the network from learning the lens formula: they are the formula's result.
The context is text, if any, then the camera's tokens.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key

from bokeh_jax.errors import InvalidInput
from bokeh_jax.models.attention import AttentionKernel
from bokeh_jax.models.blocks import CACHE
from bokeh_jax.models.conditions import (
    DEFOCUS_SCALE,
    NUM_CAMERA_TOKENS,
    CameraTokens,
    Conditions,
    TextOnly,
    check_text,
)
from bokeh_jax.models.config import (
    ComputeDtype,
    DiTConfig,
    LoraConfig,
    Remat,
    check_at_least,
    check_choice,
)
from bokeh_jax.models.dit import DiT
from bokeh_jax.models.linear import linear
from bokeh_jax.models.patches import check_size, patchify, unpatchify
from bokeh_jax.models.rope import grid_ids

ReferenceAs = Literal["channels", "tokens"]
REFERENCE_AS: tuple[ReferenceAs, ...] = ("channels", "tokens")
ReferenceSees = Literal["all", "itself"]
REFERENCE_SEES: tuple[ReferenceSees, ...] = ("all", "itself")

# Keys and values of condition tokens after their rotation, stacked over the blocks of a kind:
# {"double_blocks", "single_blocks"} -> "attention" -> {"key", "value"} -> [blocks, b, n, h, d].
ConditionCache = dict[str, Any]

# Noisy, reference and guess of a token.
_IMAGES_OF_A_TOKEN = 3
# The defocus maps of target and reference and a flag for each.
_MAPS_OF_A_TOKEN = 4


@dataclass(frozen=True)
class RefocusConfig:
    """A refocusing transformer; the fields below `distilled_guidance` are those of `DiTConfig`.

    Attributes:
        patch_size: Edge of a patch in pixels of what the network works on.
        image_channels: 3 for photographs; a codec's number for latents.
        reference_as: 'channels' or 'tokens', see the module's header.
        reference_sees: With 'tokens', what the tokens of reference and guess attend to: 'all', or
            'itself' for each other only, so that sampling computes them once.
        guess_tokens: With 'tokens', whether the guess gets tokens of its own.
        text_dim: Features of a text token; None for a model without text.
        pooled_dim: Features of a pooled text embedding; None for none.
        distilled_guidance: What a network with distilled guidance (FLUX.1-dev) is told its scale
            is, in training and in use; None for a network without.
    """

    patch_size: int = 8
    image_channels: int = 3
    reference_as: ReferenceAs = "channels"
    reference_sees: ReferenceSees = "all"
    guess_tokens: bool = True
    text_dim: int | None = None
    pooled_dim: int | None = None
    distilled_guidance: float | None = None
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
    lora: LoraConfig = field(default_factory=LoraConfig)

    def __post_init__(self) -> None:
        check_at_least("patch_size", self.patch_size, 1)
        check_at_least("image_channels", self.image_channels, 1)
        check_choice("reference_as", self.reference_as, REFERENCE_AS)
        check_choice("reference_sees", self.reference_sees, REFERENCE_SEES)
        if self.reference_sees == "itself" and self.reference_as != "tokens":
            raise InvalidInput(
                f"reference_sees is 'itself'; allowed: 'all', as reference_as is "
                f"{self.reference_as!r}"
            )
        for name in ("text_dim", "pooled_dim"):
            if getattr(self, name) is not None:
                check_at_least(name, getattr(self, name), 1)
        self.dit_config()  # Its fields are checked there.

    def dit_config(self) -> DiTConfig:
        """The transformer inside."""
        channels, area = self.image_channels, self.patch_size**2
        joined = _IMAGES_OF_A_TOKEN * channels + _MAPS_OF_A_TOKEN
        return DiTConfig(
            in_channels=area * (joined if self.reference_as == "channels" else channels),
            out_channels=channels * area,
            hidden_dim=self.hidden_dim,
            num_heads=self.num_heads,
            mlp_ratio=self.mlp_ratio,
            num_double_blocks=self.num_double_blocks,
            num_single_blocks=self.num_single_blocks,
            rope_axes_dim=self.rope_axes_dim,
            rope_theta=self.rope_theta,
            context_dim=self.text_dim,
            pooled_dim=self.pooled_dim,
            guidance_embed=self.distilled_guidance is not None,
            compute_dtype=self.compute_dtype,
            remat=self.remat,
            attention=self.attention,
            scan_blocks=self.scan_blocks,
            lora=self.lora,
        )


class RefocusDiT(nn.Module):
    """The network; parameters are `dit`, `camera` and, with 'tokens', `defocus_in`."""

    config: RefocusConfig

    @nn.compact
    def __call__(
        self,
        noisy: Float[Array, "b h w c"],
        time: Float[Array, " b"],
        conditions: Conditions | TextOnly,
        *,
        cached: bool = False,
    ) -> Float[Array, "b h w c"]:
        """The network's output in image space, float32; what it means is the objective's choice.

        Args:
            noisy: The point of the flow's path.
            time: Flow time in [0, 1].
            conditions: The reference and what is known of cameras and depth; or text alone, which
                brings no tokens of either ('tokens' only). A model of text to which none is given
                takes the prompt to be empty.
            cached: The keys and values of reference and guess are given in the collection `CACHE`,
                and their tokens are left out.

        Raises:
            InvalidInput: where height or width are no multiples of the patch size, or a text does
                not fit `text_dim` or `pooled_dim`, or 'channels' is given text alone.
        """
        config = self.config
        batch, height_px, width_px, _ = noisy.shape
        check_size(height_px, width_px, config.patch_size)
        text, pooled = text_or_none(config, conditions, batch)
        visible = conditions.visible() if isinstance(conditions, Conditions) else None
        dit_config = config.dit_config()
        tokens, ids, maps = image_tokens(config, noisy, visible, slice(1 if cached else None))
        camera, hidden, num_camera = None, None, 0
        if visible is not None:
            camera, num_camera = CameraTokens(dit_config, name="camera")(visible), NUM_CAMERA_TOKENS
            if config.reference_as == "tokens":
                hidden = defocus_in(config)(maps)
        num_text = 0 if text is None else text.shape[1]
        num_noisy = height_px * width_px // config.patch_size**2
        guidance = config.distilled_guidance
        out = DiT(dit_config, name="dit")(
            tokens,
            ids,
            text,
            jnp.zeros((batch, num_text + num_camera, 3), jnp.int32),
            time,
            pooled=pooled,
            guidance=None if guidance is None else jnp.full((batch,), guidance, jnp.float32),
            hidden_context=camera,
            hidden_image=hidden,
            num_condition=ids.shape[1] - num_noisy if config.reference_sees == "itself" else 0,
        )
        return unpatchify(out[:, :num_noisy], config.patch_size, height_px, width_px)


def init_params(
    config: RefocusConfig, key: Key[Array, ""], height_px: int, width_px: int, camera: bool = True
) -> dict[str, Any]:
    """Start values as a plain tree of float32 arrays; may be jitted or given to `eval_shape`.

    The size only has to be one that the model accepts: no parameter depends on it. Without
    `camera` there is the transformer alone, for a network that is only ever told of text.
    """
    return dict(nn.unbox(_init_boxed(config, key, height_px, width_px, camera)))


def _init_boxed(
    config: RefocusConfig, key: Key[Array, ""], height_px: int, width_px: int, camera: bool = True
) -> Any:
    """Start values with the names of their axes."""
    image = jnp.zeros((1, height_px, width_px, config.image_channels), jnp.float32)
    text = None if config.text_dim is None else jnp.zeros((1, 1, config.text_dim), jnp.float32)
    pooled = None if config.pooled_dim is None else jnp.zeros((1, config.pooled_dim), jnp.float32)
    conditions = Conditions.of_reference(image, text, pooled) if camera else TextOnly(text, pooled)
    time = jnp.zeros((1,), jnp.float32)
    return RefocusDiT(config).init(key, image, time, conditions)["params"]


def parameter_axes(config: RefocusConfig, camera: bool = True) -> dict[str, Any]:
    """A tree like the parameters' with a `PartitionSpec` of axis names in each one's place.

    Names are None where an axis has none; a parameter without names has an empty specification.
    """
    boxed = jax.eval_shape(
        lambda key: _init_boxed(config, key, config.patch_size, config.patch_size, camera),
        jax.random.key(0),
    )
    return dict(nn.get_partition_spec(boxed))


def apply(
    config: RefocusConfig,
    params: dict[str, Any],
    noisy: Float[Array, "b h w c"],
    time: Float[Array, " b"],
    conditions: Conditions | TextOnly,
    cache: ConditionCache | None = None,
) -> Float[Array, "b h w c"]:
    """`RefocusDiT.__call__` as a pure function of the parameters.

    With `cache`, the answer of `condition_cache` to the same parameters and conditions, the tokens
    of reference and guess are not computed again.
    """
    variables = {"params": params} if cache is None else {"params": params, CACHE: {"dit": cache}}
    out = RefocusDiT(config).apply(variables, noisy, time, conditions, cached=cache is not None)
    assert isinstance(out, Array)  # `apply` may return state too, which this module has none of.
    return out


def text_or_none(
    config: RefocusConfig, conditions: Conditions | TextOnly, batch_size: int
) -> tuple[Float[Array, "b t d"] | None, Float[Array, "b p"] | None]:
    """Text and pooled text as the model takes them; where they are not given, an empty prompt's.

    An empty prompt has no tokens, and zeros for its pooled embedding: so it needs no encoder.

    Raises:
        InvalidInput: what is given does not fit the model.
    """
    text, pooled = conditions.text, conditions.pooled
    if text is None and config.text_dim is not None:
        text = jnp.zeros((batch_size, 0, config.text_dim), jnp.float32)
    if pooled is None and config.pooled_dim is not None:
        pooled = jnp.zeros((batch_size, config.pooled_dim), jnp.float32)
    check_text("text", text, config.text_dim)
    check_text("pooled", pooled, config.pooled_dim)
    return text, pooled


def defocus_in(config: RefocusConfig) -> nn.Module:
    """From a defocus map and its flag to channels of the network; 0 at the start."""
    return linear(
        config.hidden_dim,
        ("features", "embed"),
        dtype=config.compute_dtype,
        kernel_init=nn.initializers.zeros,
        use_bias=False,
        name="defocus_in",
    )


def image_tokens(
    config: RefocusConfig,
    noisy: Float[Array, "b h w c"],
    visible: Conditions | None,
    part: slice = slice(None),
) -> tuple[Float[Array, "b n f"], Int[Array, "b n 3"], Float[Array, "b n e"]]:
    """Tokens of all images, their positions, and the maps that belong to them ('tokens' only).

    `part` takes some of the images; the noisy one is the first.
    """
    batch, height_px, width_px, _ = noisy.shape
    rows, columns = height_px // config.patch_size, width_px // config.patch_size
    streams = _streams(config, noisy, visible)
    cut = partial(patchify, patch_size=config.patch_size)
    ids = [grid_ids(index, rows, columns, batch) for index in range(len(streams))[part]]
    tokens, maps = (
        jnp.concatenate([cut(part) for part in parts], axis=1)
        for parts in zip(*streams[part], strict=True)
    )
    return tokens, jnp.concatenate(ids, axis=1), maps


def _streams(
    config: RefocusConfig, noisy: Float[Array, "b h w c"], visible: Conditions | None
) -> list[tuple[Float[Array, "b h w f"], Float[Array, "b h w e"]]]:
    """What becomes tokens, one image after the other, and the maps that belong to each.

    With 'channels' all is one image, maps too.
    """
    none = jnp.zeros((*noisy.shape[:3], 0), noisy.dtype)
    if visible is None:
        if config.reference_as == "channels":
            raise InvalidInput(
                "conditions are text alone; allowed: with reference_as='tokens', else a reference"
            )
        return [(noisy, none)]
    target_given = visible.camera_given * visible.disparity_given
    reference_given = visible.reference_camera_given * visible.disparity_given
    target = _defocus_channels(visible.target_defocus, target_given.astype(noisy.dtype))
    reference = _defocus_channels(visible.reference_defocus, reference_given.astype(noisy.dtype))
    if config.reference_as == "channels":
        defocus, given = (
            jnp.concatenate(pair, axis=-1) for pair in zip(target, reference, strict=True)
        )
        images = (noisy, visible.reference, visible.guess, defocus, given)
        return [(jnp.concatenate(images, axis=-1), none)]
    target_maps, reference_maps = (jnp.concatenate(pair, axis=-1) for pair in (target, reference))
    streams = [(noisy, target_maps), (visible.reference, reference_maps)]
    if config.guess_tokens:
        streams.append((visible.guess, target_maps))
    return streams


def _defocus_channels(
    defocus: Float[Array, "b h w"], given: Float[Array, " b"]
) -> tuple[Float[Array, "b h w 1"], Float[Array, "b h w 1"]]:
    """A map of unit order and its flag as an image."""
    scaled = DEFOCUS_SCALE * defocus[..., None]
    return scaled, jnp.broadcast_to(given[:, None, None, None], scaled.shape)
