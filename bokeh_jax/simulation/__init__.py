"""Cameras, scenes and simulated pairs, all jittable."""

from bokeh_jax.simulation.cameras import CameraConfig, Cameras, disparity_at, sample_cameras
from bokeh_jax.simulation.pairs import (
    Pairs,
    SimulationConfig,
    draw_scenes,
    photograph_pairs,
    physics_guess,
    simulate_pairs,
)
from bokeh_jax.simulation.scene import Scene, crop_scene, margin_for, photograph

__all__ = [
    "CameraConfig",
    "Cameras",
    "Pairs",
    "Scene",
    "SimulationConfig",
    "crop_scene",
    "disparity_at",
    "draw_scenes",
    "margin_for",
    "photograph",
    "photograph_pairs",
    "physics_guess",
    "sample_cameras",
    "simulate_pairs",
]
