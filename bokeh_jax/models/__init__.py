"""The diffusion transformer and the conditions of refocusing."""

from bokeh_jax.models.conditions import Conditions
from bokeh_jax.models.config import DiTConfig
from bokeh_jax.models.dit import DiT
from bokeh_jax.models.refocus_dit import (
    RefocusConfig,
    RefocusDiT,
    apply,
    init_params,
    parameter_axes,
)

__all__ = [
    "Conditions",
    "DiT",
    "DiTConfig",
    "RefocusConfig",
    "RefocusDiT",
    "apply",
    "init_params",
    "parameter_axes",
]
