"""What an autoencoder keeps of photographs, and what it makes of their blends.

For the M targets x_i of a scene, photographed with one aperture at several distances of focus, with
latents z_i = E(x_i), in-focus weights w_i and their means w̄_i over the cells, each against the
multi-focus photograph x_multi = Σ_i w_i x_i:

    (1) codec             D(E(x_multi))          the autoencoder's own limit
    (2) latents blended   D(Σ_i w̄_i z_i)         what the stacking constraint on latents relies on
    (3) … nearest         D(Σ_i w_i(centre) z_i) with weights taken at the cells' centres
    (4) pixels blended    Σ_i w_i D(z_i)

The autoencoder's own error is in all of them; what blending adds is seen between (2) and (1). As
the constraint sees it, even the truth misses this part of the latents' own variance:

    (5) floor             mean ‖Σ_i w̄_i z_i − E(x_multi)‖² / var E(x_multi)

Where one target is in focus all over, (2) is (1). So scores are also taken over the pixels of cells
in which no target has nearly all of the weight.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bokeh_jax.config import ExperimentConfig
from bokeh_jax.evaluation.metrics import Mean, mean_with_interval
from bokeh_jax.models.codec import decode, encode, to_grid
from bokeh_jax.objectives import to_model_range
from bokeh_jax.optics import stack
from bokeh_jax.simulation import simulate_pairs
from bokeh_jax.training.rng import example_keys, step_key

PyTree = Any
BLENDS = ("codec", "latents blended", "latents blended, nearest", "pixels blended")
# Of a cell's weight that one target has: above it, there is next to nothing to blend.
_ALONE = 0.9


@dataclasses.dataclass(frozen=True)
class BlendScores:
    """Scores of a set of scenes.

    Attributes:
        psnr_db: over whole pictures, by blend.
        transition_psnr_db: over the pixels of cells that no target has for itself, by blend.
        transition_share: of such pixels.
        apart_db: PSNR of (2) against (1).
        floor: equation (5).
    """

    psnr_db: dict[str, Mean]
    transition_psnr_db: dict[str, Mean]
    transition_share: float
    apart_db: Mean
    floor: Mean


def blend_scores(
    config: ExperimentConfig, params: PyTree, scenes: dict[str, np.ndarray], batch_size: int
) -> BlendScores:
    """Scores of stored scenes, photographed with the config's cameras.

    Args:
        config: the experiment.
        params: its network, of which only the codec is used.
        scenes: a scene batch of any length.
        batch_size: how many at once.
    """
    keys = example_keys(step_key(config.evaluation.seed, "blends", 0), len(scenes["scene_id"]))
    measure = jax.jit(functools.partial(_measured, config))
    parts = []
    for first in range(0, len(keys) // batch_size * batch_size, batch_size):
        rows = slice(first, first + batch_size)
        batch = {name: values[rows] for name, values in scenes.items()}
        parts.append(jax.device_get(measure(params, batch, keys[rows])))
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    at_transitions = {name: found[f"{name} at transitions"] for name in BLENDS}
    return BlendScores(
        {name: mean_with_interval(found[name]) for name in BLENDS},
        # Scenes without transitions have no score there.
        {name: mean_with_interval(x[np.isfinite(x)]) for name, x in at_transitions.items()},
        float(found["share"].mean()),
        mean_with_interval(found["apart"]),
        mean_with_interval(found["floor"]),
    )


def _measured(
    config: ExperimentConfig, params: PyTree, batch: dict[str, Any], keys: Array
) -> dict[str, Float[Array, " b"]]:
    """Scores of every scene of a batch."""
    codec = config.codec
    pairs = simulate_pairs(batch, keys, config.simulation)
    targets, weights = to_model_range(pairs.targets), pairs.weights
    flat = encode(codec, params, targets.reshape(-1, *targets.shape[2:]))
    latents = flat.reshape(*targets.shape[:2], *flat.shape[1:])
    cells = to_grid(codec, weights)
    truth = stack(targets, weights)
    whole = encode(codec, params, truth)
    side = codec.downsampling
    nearest = weights[..., side // 2 :: side, side // 2 :: side]
    decoded = decode(codec, params, flat).reshape(targets.shape)
    pictures = {
        "codec": decode(codec, params, whole),
        "latents blended": decode(codec, params, stack(latents, cells)),
        "latents blended, nearest": decode(codec, params, stack(latents, nearest)),
        "pixels blended": stack(decoded, weights),
    }
    shared = (jnp.max(cells, axis=1) < _ALONE).astype(jnp.float32)
    mask = jnp.repeat(jnp.repeat(shared, side, axis=1), side, axis=2)
    everywhere = jnp.ones_like(mask)
    missed = jnp.mean((stack(latents, cells) - whole) ** 2, axis=(1, 2, 3))
    return (
        {name: _psnr_db(picture, truth, everywhere) for name, picture in pictures.items()}
        | {
            f"{name} at transitions": _psnr_db(picture, truth, mask)
            for name, picture in pictures.items()
        }
        | {
            "share": jnp.mean(mask, axis=(1, 2)),
            "apart": _psnr_db(pictures["latents blended"], pictures["codec"], everywhere),
            "floor": missed / jnp.var(whole, axis=(1, 2, 3)),
        }
    )


def _psnr_db(
    picture: Float[Array, "b h w 3"], truth: Float[Array, "b h w 3"], mask: Float[Array, "b h w"]
) -> Float[Array, " b"]:
    """Over the mask's pixels, of values in [-1, 1] shown in [0, 1]; NaN where there are none."""
    shown = (0.5 * (jnp.clip(image, -1.0, 1.0) + 1.0) for image in (picture, truth))
    difference = jnp.subtract(*shown)
    total = jnp.sum(mask, axis=(1, 2))
    square = jnp.sum(mask[..., None] * difference**2, axis=(1, 2, 3)) / (3.0 * total)
    return -10.0 * jnp.log10(jnp.maximum(square, 1e-6))
