"""Refocusing photographs with trained checkpoints."""

from bokeh_jax.inference.refocuser import Refocused, Refocuser, TakenWith

__all__ = ["Refocused", "Refocuser", "TakenWith"]
