"""What a step needs of simulated pairs once they are encoded, so that it can be stored.

    build   photographs -> E(reference), E(targets), E(x_multi), E(guesses), maps on the grid
    step    these -> truths, and conditions with what is withheld drawn anew

Photographs, cameras and the disparity's damage are those of the build; what the network is told of
them, times and noise are drawn in training, so the guess is stored twice: of a reference whose
camera is unknown, and of one whose camera is known. Latents and maps are float16.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from bokeh_jax.models import CodecConfig, Conditions
from bokeh_jax.models.codec import encode, to_grid
from bokeh_jax.objectives.conditions import to_model_range
from bokeh_jax.objectives.refocus import ObjectiveConfig, pair_conditions, photographed
from bokeh_jax.optics import stack
from bokeh_jax.simulation import SimulationConfig

PyTree = Any


def make_latents(
    params: PyTree,
    batch: dict[str, Any],
    keys: Key[Array, " b"],
    *,
    simulation: SimulationConfig,
    objective: ObjectiveConfig,
    codec: CodecConfig,
) -> dict[str, Array]:
    """All that a step needs of the pairs that it would simulate with these keys; pure.

    Args:
        params: with the codec's parameters.
        batch: scene batch.
        keys: one typed key a scene, [b].
        simulation: frame and cameras.
        objective: `depth_noise` of it.
        codec: an autoencoder.

    Returns:
        float16 `reference`, `multi` [b, r, s, c], `targets` [b, m, r, s, c], `guess`
        [b, 2, m, r, s, c] (reference's camera unknown, known), `weights`, `target_defocus`
        [b, m, r, s], `reference_defocus` [b, r, s]; float32 `cameras` [b, m, 4]: focus point x and
        y, focus disparity, K / width.
    """
    pairs, known = photographed(batch, keys, simulation=simulation, objective=objective)
    scenes, count = pairs.targets.shape[:2]
    ones = jnp.ones(scenes)
    guided = dataclasses.replace(objective, guide=True)

    def told(reference_camera_given: float) -> Conditions:
        return pair_conditions(
            known,
            disparity_given=ones,
            camera_given=ones,
            reference_camera_given=reference_camera_given * ones,
            objective=guided,
            max_radius_px=simulation.max_radius_px(pairs.disparity.shape[2]),
        )

    def encoded(images: Float[Array, "*s h w 3"]) -> Float[Array, "*s r s c"]:
        *leading, height_px, width_px, channels = images.shape
        flat = encode(codec, params, images.reshape(-1, height_px, width_px, channels))
        return flat.reshape(*leading, *flat.shape[1:])

    def by_scene(values: Float[Array, "n ..."]) -> Float[Array, "b m ..."]:
        return values.reshape(scenes, count, *values.shape[1:])

    unknown, whole = told(0.0), told(1.0)
    targets = to_model_range(pairs.targets)
    guesses = jnp.stack([by_scene(unknown.guess), by_scene(whole.guess)], axis=1)
    stored = {
        "reference": encoded(to_model_range(pairs.reference)),
        "targets": encoded(targets),
        "multi": encoded(stack(targets, pairs.weights)),
        "guess": encoded(guesses),
        "weights": to_grid(codec, pairs.weights),
        "target_defocus": by_scene(to_grid(codec, whole.target_defocus)),
        "reference_defocus": by_scene(to_grid(codec, whole.reference_defocus))[:, 0],
    }
    cameras = jnp.concatenate(
        [whole.focus_point, whole.focus_disparity[:, None], whole.blur[:, None]], axis=-1
    )
    halves = {name: value.astype(jnp.float16) for name, value in stored.items()}
    return halves | {"cameras": by_scene(cameras)}
