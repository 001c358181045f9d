"""The multi-modal diffusion transformer (Esser et al. 2024) in the layout of FLUX.1.

    c      = mlp(s(t)) + mlp(s(guidance)) + mlp(pooled)              the time embedding
    image  = W_in tokens,   context = [W_txt context, hidden_context]
    image, context = double blocks(image, context; c)
    image  = single blocks([context, image]; c)                      and the context is dropped
    out    = W_out N(image),   N the modulated norm of `blocks`, equation (1)

with the sinusoids of Vaswani et al. 2017 at 1000 t, cosines first:

    s(t)_i = cos(1000 t ω_i),  s(t)_(i+128) = sin(1000 t ω_i),   ω_i = 10000^(−i/128), i < 128

The last image tokens may be *condition* tokens (`blocks`, equation (7)): with c₀ the embedding at
time 0, where an image of the flow is clean.

Start values are DiT's (Peebles and Xie 2023): Xavier-uniform kernels and zero biases, normal(0.02)
in the embedders' MLPs, zero in all modulations and in W_out, so that the first output is 0.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from bokeh_jax.errors import InvalidInput
from bokeh_jax.models.attention import ATTENTION_NAME
from bokeh_jax.models.blocks import (
    CACHE,
    BlockInputs,
    DoubleBlock,
    SingleBlock,
    modulated_norm,
)
from bokeh_jax.models.config import DiTConfig
from bokeh_jax.models.linear import PRODUCT_NAME, Linear, constrain, linear
from bokeh_jax.models.rope import rope_rotation

TIME_EMBEDDING_DIM = 256
TIME_SCALE = 1000.0
TIME_MAX_PERIOD = 10_000.0

_REMAT_POLICIES = {
    "full": None,
    "dots": jax.checkpoint_policies.save_only_these_names(PRODUCT_NAME, ATTENTION_NAME),
}


def sinusoidal_embedding(
    values: Float[Array, " b"], dim: int = TIME_EMBEDDING_DIM
) -> Float[Array, "b dim"]:
    """s(values): cosines, then sines, float32. `values` are times in [0, 1] or guidance scales."""
    half = dim // 2
    # The exponent is rounded as FLUX rounds it: at 1000 t that moves an embedding by up to 1e-4.
    exponent = np.float32(-math.log(TIME_MAX_PERIOD)) * np.arange(half, dtype=np.float32) / half
    frequency = np.exp(exponent.astype(np.float64))
    scaled = TIME_SCALE * values.astype(jnp.float32)
    angle = scaled[:, None] * jnp.asarray(frequency[None, :], jnp.float32)
    return jnp.concatenate((jnp.cos(angle), jnp.sin(angle)), axis=-1)


class Embedder(nn.Module):
    """Two linear layers with SiLU between, normal(0.02) kernels."""

    config: DiTConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b p"]) -> Float[Array, "b c"]:
        """Embed the features."""
        init, dtype = nn.initializers.normal(0.02), self.config.compute_dtype
        lora = self.config.lora.on("embedders")

        def layer(axes: tuple[str, str], name: str) -> Linear:
            width = self.config.hidden_dim
            return linear(width, axes, dtype=dtype, kernel_init=init, lora=lora, name=name)

        hidden = nn.silu(layer(("features", "embed"), "in_layer")(x))
        return layer(("embed", "width"), "out_layer")(hidden)


class FinalLayer(nn.Module):
    """The modulated norm and the projection to the output, both 0 at the start.

    The projection runs in float32: its result is the prediction itself.
    """

    config: DiTConfig

    @nn.compact
    def __call__(
        self, image: Float[Array, "b n c"], time_embedding: Float[Array, "b c"]
    ) -> Float[Array, "b n out"]:
        """The output of every image token, float32."""
        config, zeros = self.config, nn.initializers.zeros
        modulation = linear(
            2 * config.hidden_dim,
            ("embed", "modulation"),
            dtype=config.compute_dtype,
            kernel_init=zeros,
            lora=config.lora.on("modulation"),
            name="adaLN_modulation",
        )
        shift, scale = jnp.split(modulation(nn.silu(time_embedding))[:, None, :], 2, axis=-1)
        normed = modulated_norm(image.astype(jnp.float32), shift, scale)
        out = linear(
            config.out_channels,
            ("embed", "features"),
            dtype=jnp.float32,
            kernel_init=zeros,
            lora=config.lora.on("embedders"),
            name="linear",
        )
        return out(normed)


class DiT(nn.Module):
    """Transformer over image tokens that attend to context tokens; see the module's header.

    Parameters: `img_in`, `txt_in`, `time_in`, `guidance_in`, `vector_in`, `double_blocks`,
    `single_blocks` (both stacked along their first axis), `final_layer`.
    """

    config: DiTConfig

    @nn.compact
    def __call__(
        self,
        image_tokens: Float[Array, "b n c"],
        image_ids: Int[Array, "b n 3"],
        context_tokens: Float[Array, "b t d"] | None,
        context_ids: Int[Array, "b s 3"],
        time: Float[Array, " b"],
        *,
        pooled: Float[Array, "b p"] | None = None,
        guidance: Float[Array, " b"] | None = None,
        hidden_context: Float[Array, "b e hidden"] | None = None,
        hidden_image: Float[Array, "b n hidden"] | None = None,
        num_condition: int = 0,
    ) -> Float[Array, "b n out"]:
        """Map image tokens to outputs, float32.

        Args:
            image_tokens: Tokens of one or more images.
            image_ids: Integer positions (stream, row, column).
            context_tokens: Context at `context_dim`, or None where the config has no such context.
            context_ids: Positions of `context_tokens`, then of `hidden_context`; s = t + e.
            time: Flow time in [0, 1].
            pooled: Pooled text embedding, where the config has `pooled_dim`.
            guidance: Guidance scale of a distilled model, where the config has `guidance_embed`.
            hidden_context: More context, at `hidden_dim` already.
            hidden_image: Added to the image tokens when these are at `hidden_dim`.
            num_condition: How many of the last image tokens see themselves only, at time 0.

        Raises:
            InvalidInput: where an optional input and the config disagree.
        """
        config = self.config
        _check_optional("context_tokens", context_tokens, "context_dim", config.context_dim)
        _check_optional("pooled", pooled, "pooled_dim", config.pooled_dim)
        _check_optional("guidance", guidance, "guidance_embed", config.guidance_embed or None)
        dtype = jnp.dtype(config.compute_dtype)

        tokens_in = partial(
            linear,
            config.hidden_dim,
            ("features", "embed"),
            dtype=dtype,
            lora=config.lora.on("embedders"),
        )
        image = tokens_in(name="img_in")(image_tokens)
        if hidden_image is not None:
            image = image + hidden_image.astype(dtype)
        parts = [] if hidden_context is None else [hidden_context.astype(dtype)]
        if context_tokens is not None:
            parts.insert(0, tokens_in(name="txt_in")(context_tokens))
        if not parts:
            raise InvalidInput("context is empty; allowed: context_tokens, hidden_context or both")
        context = jnp.concatenate(parts, axis=1)

        ids = jnp.concatenate((context_ids, image_ids), axis=1)
        rotation = rope_rotation(ids, config.rope_axes_dim, config.rope_theta)
        image, context = (constrain(x, "batch", "tokens", "width") for x in (image, context))
        times = (time, jnp.zeros_like(time)) if num_condition else (time,)
        embedding, *own = _time_embeddings(config, times, pooled, guidance)
        inputs = BlockInputs(embedding, rotation, own[0] if own else None, num_condition)
        image = _run_blocks(config, image, context, inputs)
        return FinalLayer(config, name="final_layer")(image, embedding)


def _time_embeddings(
    config: DiTConfig,
    times: tuple[Float[Array, " b"], ...],
    pooled: Float[Array, "b p"] | None,
    guidance: Float[Array, " b"] | None,
) -> list[Float[Array, "b c"]]:
    """c of each of the times."""
    time_in = Embedder(config, name="time_in")
    embeddings = [time_in(sinusoidal_embedding(time)) for time in times]
    if guidance is not None:
        added = Embedder(config, name="guidance_in")(sinusoidal_embedding(guidance))
        embeddings = [embedding + added for embedding in embeddings]
    if pooled is not None:
        added = Embedder(config, name="vector_in")(pooled)
        embeddings = [embedding + added for embedding in embeddings]
    return embeddings


def _run_blocks(
    config: DiTConfig,
    image: Float[Array, "b n c"],
    context: Float[Array, "b s c"],
    inputs: BlockInputs,
) -> Float[Array, "b n c"]:
    """All double and single blocks; the image's tokens come back."""
    if config.num_double_blocks:
        double = _repeated(DoubleBlock, config, config.num_double_blocks)
        (image, context), _ = double(config, name="double_blocks")((image, context), inputs)
    if config.num_single_blocks:
        single = _repeated(SingleBlock, config, config.num_single_blocks)
        joined = jnp.concatenate((context, image), axis=1)
        joined, _ = single(config, name="single_blocks")(joined, inputs)
        image = joined[:, context.shape[1] :]
    return image


def _repeated(block: type[nn.Module], config: DiTConfig, length: int) -> Any:
    """`length` blocks with parameters stacked along axis 0, looped or unrolled, rematerialised."""
    if config.remat != "none":
        # Inside a loop nothing can be merged across passes, so the barrier would only cost time.
        block = nn.remat(
            block, policy=_REMAT_POLICIES[config.remat], prevent_cse=not config.scan_blocks
        )
    return nn.scan(
        block,
        variable_axes={"params": 0, CACHE: 0},
        split_rngs={"params": True},
        metadata_params={nn.PARTITION_NAME: "layers"},
        in_axes=nn.broadcast,  # pyright: ignore[reportArgumentType]
        length=length,
        unroll=1 if config.scan_blocks else length,
    )


def _check_optional(name: str, value: Any, field: str, setting: Any) -> None:
    if (value is None) != (setting is None):
        allowed = "no value" if setting is None else "an array"
        given = "None" if value is None else f"an array {value.shape}"
        raise InvalidInput(f"{name} is {given}; allowed: {allowed}, as {field} is {setting}")
