"""Perceptual metrics in JAX: LPIPS, DISTS, CLIP-I and MUSIQ, on weights given as local files."""

from bokeh_jax.evaluation.perceptual.registry import (
    FILES,
    NO_WEIGHTS,
    PerceptualMetric,
    load_perceptual,
    perceptual_scores,
)

__all__ = ["FILES", "NO_WEIGHTS", "PerceptualMetric", "load_perceptual", "perceptual_scores"]
