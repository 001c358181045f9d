"""Refocused photographs from trained parameters: conditions and noise in, samples out.

Guidance contrasts the prediction with one that is told neither camera nor disparity.

Where reference tokens do not look at the noise, their part is computed before the first step, for
each side of the guidance, and every step uses it (`models/condition_cache.py`).
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from bokeh_jax import diffusion
from bokeh_jax.models import CodecConfig, Conditions, RefocusConfig, condition_cache
from bokeh_jax.models.codec import decode
from bokeh_jax.objectives.conditions import encode_conditions, to_model_range, with_text
from bokeh_jax.objectives.refocus import PIXELS, ObjectiveConfig, pair_conditions, predict
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
    """(x_t, time) -> prediction, guided where `guidance_scale` is not 1.

    Make it outside of the loop over steps: what the steps share is computed here.
    """

    def with_conditions(told: Conditions) -> diffusion.Predictor:
        cache = None
        if model.reference_sees == "itself":
            cache = jax.jit(partial(condition_cache, model))(params, told)
        return lambda x_t, time: predict(
            params, x_t, time, told, model=model, objective=objective, cache=cache
        )

    conditional = with_conditions(conditions)
    if guidance_scale == 1.0:
        return conditional
    unconditional = with_conditions(conditions.without_camera())
    return diffusion.guided(conditional, unconditional, guidance_scale)


def start_of_flow(
    conditions: Conditions, keys: Key[Array, " b"], objective: ObjectiveConfig
) -> Float[Array, "b h w c"]:
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
) -> Float[Array, "b h w c"]:
    """Samples of what the network works on; one compiled loop.

    Args:
        params: the network's parameters (for use: the EMA).
        conditions: what is asked, from `build_conditions`, encoded.
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
    codec: CodecConfig = PIXELS,
    method: diffusion.Method = "euler",
    num_steps: int = 1,
    guidance_scale: float = 1.0,
    reference_camera_given: bool = False,
    disparity_given: Float[Array, " b"] | None = None,
    told: Mapping[str, Any] | None = None,
) -> Float[Array, "b m h w 3"]:
    """Every target of simulated pairs, told disparity and asked camera.

    That is what a user of a photograph with depth can give; of a photograph from a known camera
    also the reference's.

    Args:
        params: the network's parameters, the codec's among them.
        pairs: the photographs; only reference, disparity and asked cameras are used.
        keys: one typed key a scene, [b]; the targets of a scene share their noise, as in training.
        model: the network.
        objective: its objective.
        max_radius_px: static bound of the blur radius.
        codec: between photographs and what the network works on.
        method: solver.
        num_steps: solver steps.
        guidance_scale: 1 is none.
        reference_camera_given: tell the reference's camera too.
        disparity_given: 1 where the scene's disparity is told, else 0; None for all of them.
        told: `text` and `pooled` of the scenes, as far as they are to be told; None for nothing.

    Returns:
        Photographs in the model's range.
    """
    scenes, count = pairs.targets.shape[:2]
    ones = jnp.ones(scenes)
    conditions = pair_conditions(
        pairs,
        disparity_given=ones if disparity_given is None else disparity_given,
        camera_given=ones,
        reference_camera_given=ones if reference_camera_given else 0.0 * ones,
        objective=objective,
        max_radius_px=max_radius_px,
    )
    conditions = encode_conditions(
        conditions, to_model_range(pairs.reference), params, codec=codec, guide=objective.guide
    )
    samples = sample_refocused(
        params,
        with_text(conditions, told or {}, model),
        jnp.repeat(keys, count, axis=0),
        model=model,
        objective=objective,
        method=method,
        num_steps=num_steps,
        guidance_scale=guidance_scale,
    )
    return decode(codec, params, samples).reshape(pairs.targets.shape)
