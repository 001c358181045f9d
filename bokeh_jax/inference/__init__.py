"""Refocusing photographs with trained checkpoints."""

from bokeh_jax.inference.refocuser import Refocused, Refocuser

__all__ = ["Refocused", "Refocuser"]
