"""Cameras, scenes and simulated pairs, all jittable."""

from bokeh_jax.simulation.augment import AugmentConfig
from bokeh_jax.simulation.cameras import (
    CameraConfig,
    Cameras,
    disparity_at,
    sample_cameras,
    seen_through,
)
from bokeh_jax.simulation.depth_noise import DepthNoiseConfig, damage_disparity
from bokeh_jax.simulation.pairs import (
    Pairs,
    SimulationConfig,
    draw_scenes,
    missing_radius_px,
    photograph_pairs,
    physics_guess,
    simulate_pairs,
)
from bokeh_jax.simulation.scene import Scene, crop_scene, margin_for, photograph

__all__ = [
    "AugmentConfig",
    "CameraConfig",
    "Cameras",
    "DepthNoiseConfig",
    "Pairs",
    "Scene",
    "SimulationConfig",
    "crop_scene",
    "damage_disparity",
    "disparity_at",
    "draw_scenes",
    "margin_for",
    "missing_radius_px",
    "photograph",
    "photograph_pairs",
    "physics_guess",
    "sample_cameras",
    "seen_through",
    "simulate_pairs",
]
