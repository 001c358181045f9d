"""Refocusing photographs with trained checkpoints."""

from bokeh_jax.inference.refocuser import Refocused, Refocuser
from bokeh_jax.inference.request import TakenWith

__all__ = ["Refocused", "Refocuser", "TakenWith"]
