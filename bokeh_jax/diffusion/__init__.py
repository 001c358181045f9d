"""Rectified flow: corruption, time sampling, prediction conversions and samplers.

Imports nothing else of the project, so that it can be lifted out whole.
"""

from bokeh_jax.diffusion.flow import (
    SourceKind,
    interpolate,
    sample_from_velocity,
    source,
    source_from_velocity,
    velocity,
    velocity_from_sample,
)
from bokeh_jax.diffusion.samplers import (
    Method,
    Prediction,
    Predictor,
    guide,
    guided,
    iterate_samples,
    sample,
)
from bokeh_jax.diffusion.time_sampling import TimeSampling, sample_time, time_grid

__all__ = [
    "Method",
    "Prediction",
    "Predictor",
    "SourceKind",
    "TimeSampling",
    "guide",
    "guided",
    "interpolate",
    "iterate_samples",
    "sample",
    "sample_from_velocity",
    "sample_time",
    "source",
    "source_from_velocity",
    "time_grid",
    "velocity",
    "velocity_from_sample",
]
