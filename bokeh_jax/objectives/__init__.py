"""Objectives as pure functions, and the samplers of what they train."""

from bokeh_jax.objectives.conditions import build_conditions, from_model_range, to_model_range
from bokeh_jax.objectives.refocus import (
    ObjectiveConfig,
    as_known,
    predict,
    refocus_loss,
    stacking_loss,
)
from bokeh_jax.objectives.sampling import (
    make_predictor,
    refocus_pairs,
    sample_refocused,
    start_of_flow,
)

__all__ = [
    "ObjectiveConfig",
    "as_known",
    "build_conditions",
    "from_model_range",
    "make_predictor",
    "predict",
    "refocus_loss",
    "refocus_pairs",
    "sample_refocused",
    "stacking_loss",
    "start_of_flow",
    "to_model_range",
]
