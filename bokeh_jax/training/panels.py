"""Pictures of what the model does: rows of reference, lens blur, model, truth."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from bokeh_jax.config import ExperimentConfig
from bokeh_jax.models import depth_anything
from bokeh_jax.models.codec import decode, encode
from bokeh_jax.objectives import refocus_pairs, to_model_range
from bokeh_jax.objectives.depth import DEPTH
from bokeh_jax.objectives.generate import all_in_focus, photographs_taken, sample_images
from bokeh_jax.simulation import draw_scenes, physics_guess, simulate_pairs
from bokeh_jax.training import preflight
from bokeh_jax.training.defocus_panel import defocus_columns
from bokeh_jax.training.focus_data import focus_columns
from bokeh_jax.training.network import whole
from bokeh_jax.training.rng import example_keys, step_key
from bokeh_jax.training.sharding import replicated
from bokeh_jax.training.task import photographs
from data_pipeline.dataset import load_split

PyTree = Any
Draw = Callable[[PyTree], Float[np.ndarray, "gh gw 3"]]
PANEL_SCENES = 6
COLUMNS = ("reference", "lens blur", "model", "truth")


def grid(
    pictures: Float[np.ndarray, "rows columns h w 3"], *, gap_px: int = 2, zoom: int = 1
) -> Float[np.ndarray, "gh gw 3"]:
    """Pictures of one size laid out in rows on white, each pixel `zoom` pixels wide."""
    cells = pictures.repeat(zoom, axis=2).repeat(zoom, axis=3)
    padded = np.pad(cells, ((0, 0), (0, 0), (0, gap_px), (0, gap_px), (0, 0)), constant_values=1.0)
    count_rows, count_columns, height_px, width_px, _ = padded.shape
    return padded.transpose(0, 2, 1, 3, 4).reshape(
        count_rows * height_px, count_columns * width_px, 3
    )[: -gap_px or None, : -gap_px or None]


def make_panel(config: ExperimentConfig, mesh: Mesh, params: PyTree, frozen: PyTree) -> Draw:
    """Loads a few fixed scenes and gives trained params -> picture, in the columns `COLUMNS`.

    Of an autoencoder: each scene's photographs, and what comes back of them. Of a generator: an
    image, and what its caption alone makes. Of a depth network: image, truth, answer. Of the focus
    transformer: image, attention, the lens blur that it leads to, photograph. Of the task 'defocus'
    `defocus_columns`.

    Compiled here, for (abstract) `params` of the run's shardings: a job that is told to leave while
    its loop compiles would not get to save.

    Scenes, cameras and noise are the same at every call, so that pictures of different steps can
    be compared. They are of the split's first group: pictures of one kind and shape.
    """
    batch = load_split(
        Path(config.data.path),
        config.data.split,
        limit=PANEL_SCENES,
        **preflight.arrays_read(config),
    )
    scenes = len(batch["scene_id"])
    keys = example_keys(step_key(config.seed, "panel", 0), scenes)

    columns = {
        "autoencoder": _reconstructed,
        "generate": _generated,
        "depth": _with_depth,
        "focus": focus_columns,
        "defocus": defocus_columns,
        "refocus": _refocused,
    }[config.task]

    # Whole on every process: all draw, and the one that writes can read it.
    @functools.partial(jax.jit, out_shardings=replicated(mesh))
    def pictures(params: PyTree, frozen: PyTree, batch: dict[str, jax.Array]) -> jax.Array:
        drawn = columns(whole(frozen, params), batch, keys, config)
        return jnp.clip(0.5 * (jnp.stack(drawn, axis=1) + 1.0), 0.0, 1.0)

    executable = pictures.lower(params, frozen, batch).compile()
    return lambda params: grid(jax.device_get(executable(params, frozen, batch)))


def _refocused(
    params: PyTree, batch: dict[str, jax.Array], keys: jax.Array, config: ExperimentConfig
) -> list[jax.Array]:
    """`COLUMNS` in the model's range."""
    pairs = simulate_pairs(batch, keys, config.simulation)
    max_radius_px = config.simulation.max_radius_px(pairs.disparity.shape[2])
    samples = refocus_pairs(
        params,
        pairs,
        keys,
        model=config.model,
        objective=config.objective,
        max_radius_px=max_radius_px,
        codec=config.codec,
        told=batch,
        **dataclasses.asdict(config.sampler),
    )
    first = jax.tree.map(lambda leaf: leaf[:, 0], pairs.cameras.targets)
    blurred = physics_guess(pairs.reference, pairs.disparity, first, max_radius_px=max_radius_px)
    reference, blurred, truth = map(to_model_range, (pairs.reference, blurred, pairs.targets[:, 0]))
    return [reference, blurred, samples[:, 0], truth]


def _generated(
    params: PyTree, batch: dict[str, jax.Array], keys: jax.Array, config: ExperimentConfig
) -> list[jax.Array]:
    """An image of the dataset, and what its caption (and its camera) makes."""
    shown = photographs_taken if config.generation.images == "photographs" else all_in_focus
    images = shown(batch, keys, config.simulation)
    stored = batch["layers"].shape[2:4] if "layers" in batch else batch["image"].shape[1:3]
    made = sample_images(
        params,
        batch,
        keys,
        config.grid_of((stored[0], stored[1])),
        model=config.model,
        text=config.text,
        generation=config.generation,
        codec=config.codec,
        **dataclasses.asdict(config.sampler),
    )
    return [images, made]


def _with_depth(
    params: PyTree, batch: dict[str, jax.Array], keys: jax.Array, config: ExperimentConfig
) -> list[jax.Array]:
    """An image, its disparity, and the network's answer; both from least (black) to largest."""
    scenes, _ = draw_scenes(batch, keys, config.simulation)
    images = to_model_range(jnp.minimum(scenes.image, 1.0))
    answer = depth_anything.depth(config.depth, params[DEPTH], 0.5 * (images + 1.0))

    def grey(disparity: jax.Array) -> jax.Array:
        low, high = (limit(disparity, axis=(1, 2), keepdims=True) for limit in (jnp.min, jnp.max))
        scaled = 2.0 * (disparity - low) / jnp.maximum(high - low, 1e-6) - 1.0
        return jnp.repeat(scaled[..., None], 3, axis=-1)

    return [images, grey(scenes.disparity), grey(answer)]


def _reconstructed(
    params: PyTree, batch: dict[str, jax.Array], keys: jax.Array, config: ExperimentConfig
) -> list[jax.Array]:
    """Reference and first target of every scene, each before and after the autoencoder."""
    images = photographs(batch, keys, config)
    back = decode(config.codec, params, encode(config.codec, params, images))
    both = (part.reshape(len(keys), -1, *part.shape[1:]) for part in (images, back))
    given, returned = both
    return [given[:, 0], returned[:, 0], given[:, 1], returned[:, 1]]
