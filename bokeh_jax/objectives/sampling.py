"""Refocused photographs from trained parameters: conditions and noise in, samples out.

Guidance contrasts the prediction with one that is told neither camera nor disparity.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from bokeh_jax import diffusion
from bokeh_jax.models import Conditions, RefocusConfig
from bokeh_jax.objectives.refocus import ObjectiveConfig, pair_conditions, predict
from bokeh_jax.simulation import Pairs

PyTree = Any


def make_predictor(
    params: PyTree,
    conditions: Conditions,
    *,
    model: RefocusConfig,
    objective: ObjectiveConfig,
    guidance_scale: float = 1.0,
) -> diffusion.Predictor:
    """(x_t, time) -> prediction, guided where `guidance_scale` is not 1."""

    def with_conditions(told: Conditions) -> diffusion.Predictor:
        return lambda x_t, time: predict(params, x_t, time, told, model=model, objective=objective)

    return diffusion.guided(
        with_conditions(conditions), with_conditions(conditions.without_camera()), guidance_scale
    )


def start_of_flow(
    conditions: Conditions, keys: Key[Array, " b"], objective: ObjectiveConfig
) -> Float[Array, "b h w 3"]:
    """The source z of every example, from its own key."""
    shape = conditions.reference.shape[1:]
    noise = jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
    return diffusion.source(
        objective.flow_source, conditions.reference, noise, objective.source_noise
    )


def sample_refocused(
    params: PyTree,
    conditions: Conditions,
    keys: Key[Array, " b"],
    *,
    model: RefocusConfig,
    objective: ObjectiveConfig,
    method: diffusion.Method = "euler",
    num_steps: int = 1,
    guidance_scale: float = 1.0,
) -> Float[Array, "b h w 3"]:
    """Samples in the model's range; one compiled loop.

    Args:
        params: the network's parameters (for use: the EMA).
        conditions: what is asked, from `build_conditions`.
        keys: one typed key an example, [b].
        model: the network.
        objective: what the network predicts, and from which source the flow starts.
        method: solver.
        num_steps: solver steps; 1 is enough for the sample prediction of a small refocuser.
        guidance_scale: 1 is none.
    """
    return diffusion.sample(
        make_predictor(
            params, conditions, model=model, objective=objective, guidance_scale=guidance_scale
        ),
        start_of_flow(conditions, keys, objective),
        diffusion.time_grid(num_steps),
        method=method,
        prediction=objective.prediction,
    )


def refocus_pairs(
    params: PyTree,
    pairs: Pairs,
    keys: Key[Array, " b"],
    *,
    model: RefocusConfig,
    objective: ObjectiveConfig,
    max_radius_px: float,
    method: diffusion.Method = "euler",
    num_steps: int = 1,
    guidance_scale: float = 1.0,
    reference_camera_given: bool = False,
) -> Float[Array, "b m h w 3"]:
    """Every target of simulated pairs, told disparity and asked camera.

    That is what a user of a photograph with depth can give; of a photograph from a known camera
    also the reference's.

    Args:
        params: the network's parameters.
        pairs: the photographs; only reference, disparity and asked cameras are used.
        keys: one typed key a scene, [b]; the targets of a scene share their noise, as in training.
        model: the network.
        objective: its objective.
        max_radius_px: static bound of the blur radius.
        method: solver.
        num_steps: solver steps.
        guidance_scale: 1 is none.
        reference_camera_given: tell the reference's camera too.

    Returns:
        Samples in the model's range.
    """
    scenes, count = pairs.targets.shape[:2]
    ones = jnp.ones(scenes)
    conditions = pair_conditions(
        pairs,
        disparity_given=ones,
        camera_given=ones,
        reference_camera_given=ones if reference_camera_given else 0.0 * ones,
        objective=objective,
        max_radius_px=max_radius_px,
    )
    samples = sample_refocused(
        params,
        conditions,
        jnp.repeat(keys, count, axis=0),
        model=model,
        objective=objective,
        method=method,
        num_steps=num_steps,
        guidance_scale=guidance_scale,
    )
    return samples.reshape(pairs.targets.shape)
