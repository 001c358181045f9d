"""Objectives as pure functions, and the samplers of what they train."""

from bokeh_jax.objectives.autoencoder import AutoencoderObjectiveConfig, autoencoder_loss
from bokeh_jax.objectives.conditions import (
    build_conditions,
    encode_conditions,
    from_model_range,
    to_model_range,
)
from bokeh_jax.objectives.latents import make_latents
from bokeh_jax.objectives.refocus import (
    ObjectiveConfig,
    as_known,
    predict,
    refocus_loss,
)
from bokeh_jax.objectives.sampling import (
    make_predictor,
    refocus_pairs,
    sample_refocused,
    start_of_flow,
)
from bokeh_jax.objectives.stacking import stacking_loss

__all__ = [
    "AutoencoderObjectiveConfig",
    "ObjectiveConfig",
    "as_known",
    "autoencoder_loss",
    "build_conditions",
    "encode_conditions",
    "from_model_range",
    "make_latents",
    "make_predictor",
    "predict",
    "refocus_loss",
    "refocus_pairs",
    "sample_refocused",
    "stacking_loss",
    "start_of_flow",
    "to_model_range",
]
