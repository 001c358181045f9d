"""A contact sheet of simulated pairs: what a dataset and a camera distribution look like.

A row is a scene: all in focus, disparity (near is bright), reference, targets 1..M, and the
stacking weight of target 1. Below each photograph stands its camera.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw

from bokeh_jax.optics import linear_to_srgb
from bokeh_jax.simulation import SimulationConfig, draw_scenes, photograph_pairs
from bokeh_jax.training.rng import example_keys, step_key
from data_pipeline.dataset import load_split

_CAPTION_PX = 14
_GAP_PX = 6


def _gray(values: np.ndarray) -> np.ndarray:
    return np.repeat(np.clip(values, 0.0, 1.0)[..., None], 3, axis=-1)


def contact_sheet(
    dataset: Path, split: str, simulation: SimulationConfig, *, num_scenes: int = 8, seed: int = 0
) -> Float[np.ndarray, "h w 3"]:
    """Draws the sheet, sRGB [0, 1].

    Raises:
        InvalidInput: the dataset cannot be read or lacks the split.
    """
    batch = load_split(dataset, split, limit=num_scenes)
    ids = batch.pop("scene_id")
    keys = example_keys(step_key(seed, "inspect", 0), len(ids))

    @jax.jit
    def shoot(records, keys):
        scenes, cameras = draw_scenes(records, keys, simulation)
        return scenes, photograph_pairs(scenes, cameras, simulation)

    scenes, pairs = jax.device_get(shoot(batch, keys))
    encode = lambda image: np.clip(np.asarray(linear_to_srgb(jnp.asarray(image))), 0.0, 1.0)  # noqa: E731
    count = pairs.targets.shape[1]
    zoom = max(1, 128 // simulation.size_px)
    cell = simulation.size_px * zoom
    sheet = Image.new(
        "RGB",
        ((4 + count) * (cell + _GAP_PX), len(ids) * (cell + _CAPTION_PX + _GAP_PX)),
        "white",
    )
    draw = ImageDraw.Draw(sheet)
    for row in range(len(ids)):
        reference, targets = pairs.cameras.reference, pairs.cameras.targets
        cells = [
            (f"scene {ids[row]}", encode(scenes.image[row])),
            (
                f"disparity {pairs.disparity[row].min():.2f}..{pairs.disparity[row].max():.2f}",
                _gray(pairs.disparity[row]),
            ),
            (
                f"ref f {reference.focus_disparity[row]:.2f} K {reference.blur_px[row]:.1f}px",
                encode(pairs.reference[row]),
            ),
        ]
        for index in range(count):
            caption = (
                f"f {targets.focus_disparity[row, index]:.2f} K {targets.blur_px[row, index]:.1f}px"
            )
            cells.append((caption, encode(pairs.targets[row, index])))
        cells.append(("weight 1", _gray(pairs.weights[row, 0])))
        for column, (caption, image) in enumerate(cells):
            left, top = column * (cell + _GAP_PX), row * (cell + _CAPTION_PX + _GAP_PX)
            tile = Image.fromarray(np.uint8(np.rint(image * 255.0)))
            sheet.paste(tile.resize((cell, cell), Image.Resampling.NEAREST), (left, top))
            draw.text((left, top + cell), caption, fill="black")
    return np.asarray(sheet, np.float32) / 255.0
