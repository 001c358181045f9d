"""The diffusion transformer and the conditions of refocusing."""

from bokeh_jax.models.autoencoder_config import AutoencoderConfig
from bokeh_jax.models.codec import CodecConfig
from bokeh_jax.models.condition_cache import condition_cache
from bokeh_jax.models.conditions import Conditions, TextOnly
from bokeh_jax.models.config import DiTConfig, LoraConfig
from bokeh_jax.models.dit import DiT
from bokeh_jax.models.refocus_dit import (
    ConditionCache,
    RefocusConfig,
    RefocusDiT,
    apply,
    init_params,
    parameter_axes,
)

__all__ = [
    "AutoencoderConfig",
    "CodecConfig",
    "ConditionCache",
    "Conditions",
    "DiT",
    "DiTConfig",
    "LoraConfig",
    "RefocusConfig",
    "RefocusDiT",
    "TextOnly",
    "apply",
    "condition_cache",
    "init_params",
    "parameter_axes",
]
