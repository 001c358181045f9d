"""Layered scenes, and the photographer who takes them with real cameras.

The photographer renders with `bokeh_jax.optics`; it is imported from its own module, so that
scenes alone need no compiler.
"""

from data_pipeline.layered.source import LayeredSource
from data_pipeline.layered.style import COMPACT, PLAIN, RICH, STYLES, SceneStyle

__all__ = ["COMPACT", "PLAIN", "RICH", "STYLES", "LayeredSource", "SceneStyle"]
