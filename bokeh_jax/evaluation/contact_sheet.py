"""A contact sheet of simulated pairs: what a dataset and a camera distribution look like.

A row is a scene: all in focus, disparity (near is bright), what the network is told of disparity,
reference, targets 1..M, and the stacking weight of every target. Below each photograph stands its
camera. Every group of the split has rows. Below them, histograms over many scenes and cameras: blur
K over the width, focus disparity, and the signed radius of the targets' pixels.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw

from bokeh_jax.errors import InvalidInput
from bokeh_jax.objectives import as_known
from bokeh_jax.optics import linear_to_srgb
from bokeh_jax.simulation import (
    DepthNoiseConfig,
    Pairs,
    SimulationConfig,
    draw_scenes,
    photograph_pairs,
)
from bokeh_jax.training.rng import example_keys, step_key
from data_pipeline.dataset import dataset_info, load_split

_CAPTION_PX = 14
_GAP_PX = 6
_CELL_PX = 128
_BAR_PX = 6
_NUM_BARS = 40
_PLOT_HEIGHT_PX = 110
# Scenes behind the histograms, in all.
_NUM_COUNTED = 256

Values = np.ndarray | jax.Array
Cell = tuple[str, Float[np.ndarray, "_ _ 3"]]


@dataclasses.dataclass(frozen=True)
class Drawn:
    """What the sheet shows of one group.

    Attributes:
        rows: captioned pictures, a row a scene.
        counted: values behind the histograms, by title.
    """

    rows: list[list[Cell]]
    counted: dict[str, np.ndarray]


def contact_sheet(
    dataset: Path,
    split: str,
    simulation: SimulationConfig,
    *,
    depth_noise: DepthNoiseConfig,
    num_scenes: int = 8,
    seed: int = 0,
) -> Float[np.ndarray, "h w 3"]:
    """Draws the sheet, sRGB [0, 1].

    Args:
        dataset: its folder.
        split: of it.
        simulation: frame, variations and cameras.
        depth_noise: how the network's disparity is damaged.
        num_scenes: rows in all, shared by the groups, at least one each.
        seed: draws crops, cameras and damage.

    Raises:
        InvalidInput: the dataset cannot be read or lacks the split.
    """
    info = dataset_info(dataset)
    if split not in info.splits:
        raise InvalidInput(f"split is {split!r}; allowed in {dataset}: {', '.join(info.splits)}")
    groups = info.splits[split]
    drawn = []
    for index, group in enumerate(groups):
        share = group.num_scenes / info.counts[split]
        shown = min(group.num_scenes, max(1, round(num_scenes * share)))
        counted = min(group.num_scenes, max(shown, round(_NUM_COUNTED * share)))
        batch = load_split(dataset, split, limit=counted, group=index)
        drawn.append(_draw_group(batch, shown, simulation, depth_noise, seed))
    rows = [row for group in drawn for row in group.rows]
    counts = {
        title: np.concatenate([group.counted[title] for group in drawn])
        for title in drawn[0].counted
    }
    return np.asarray(lay_out(rows, counts), np.float32) / 255.0


def _draw_group(
    batch: dict[str, np.ndarray],
    shown: int,
    simulation: SimulationConfig,
    depth_noise: DepthNoiseConfig,
    seed: int,
) -> Drawn:
    """Photograph the first scenes of a group; count the cameras of all."""
    keys = example_keys(step_key(seed, "inspect", 0), len(batch["scene_id"]))
    scenes, cameras = jax.jit(lambda b, k: draw_scenes(b, k, simulation))(batch, keys)

    @jax.jit
    def shoot(scenes, cameras, keys):
        pairs = photograph_pairs(scenes, cameras, simulation)
        return pairs, as_known(pairs, keys, depth_noise).disparity

    first = lambda tree: jax.tree.map(lambda leaf: leaf[:shown], tree)  # noqa: E731
    pairs, known = jax.device_get(shoot(first(scenes), first(cameras), keys[:shown]))
    images = jax.device_get(first(scenes).image)
    rows = [
        _row(int(batch["scene_id"][index]), images[index], known[index], pairs, index)
        for index in range(shown)
    ]
    width_px = scenes.disparity.shape[2]
    # A few pixels of every scene are enough to count.
    step = max(1, width_px // 32)
    seen = scenes.disparity[:, None, ::step, ::step].repeat(simulation.cameras.num_targets, axis=1)
    radius_px = jax.device_get(cameras.targets.signed_radius_px(seen))
    cameras = jax.device_get(cameras)
    return Drawn(
        rows,
        {
            "blur K / width, targets": np.ravel(cameras.targets.blur_px) / width_px,
            "blur K / width, references": np.ravel(cameras.reference.blur_px) / width_px,
            "focus disparity, targets": np.ravel(cameras.targets.focus_disparity),
            "radius / width, pixels of targets": np.ravel(radius_px) / width_px,
        },
    )


def _row(
    scene_id: int,
    image: Float[np.ndarray, "h w 3"],
    known: Float[np.ndarray, "h w"],
    pairs: Pairs,
    row: int,
) -> list[Cell]:
    disparity, cameras = pairs.disparity[row], pairs.cameras
    reference, targets = cameras.reference, cameras.targets
    camera = lambda focus, blur_px: f"f {focus:.2f} K {blur_px:.1f}px"  # noqa: E731
    cells = [
        (f"scene {scene_id}", _encode(image)),
        (f"disparity {disparity.min():.2f}..{disparity.max():.2f}", _gray(disparity)),
        ("disparity as told", _gray(known)),
        (
            "ref " + camera(reference.focus_disparity[row], reference.blur_px[row]),
            _encode(pairs.reference[row]),
        ),
    ]
    count = pairs.targets.shape[1]
    for index in range(count):
        focus, blur_px = targets.focus_disparity[row, index], targets.blur_px[row, index]
        cells.append((camera(focus, blur_px), _encode(pairs.targets[row, index])))
    for index in range(count):
        cells.append((f"weight {index + 1}", _gray(pairs.weights[row, index])))
    return cells


def _gray(values: Values) -> np.ndarray:
    return np.repeat(np.clip(np.asarray(values), 0.0, 1.0)[..., None], 3, axis=-1)


def _encode(image: Values) -> np.ndarray:
    return np.clip(np.asarray(linear_to_srgb(jnp.asarray(image))), 0.0, 1.0)


def lay_out(
    rows: list[list[Cell]], counts: dict[str, np.ndarray], *, cell_px: int = _CELL_PX
) -> Image.Image:
    """Rows of pictures, whole pixels enlarged to about `cell_px`, and the histograms below."""
    zooms = [max(1, cell_px // max(row[0][1].shape[:2])) for row in rows]
    pictures = zip(rows, zooms, strict=True)
    sizes = [tuple(zoom * side for side in row[0][1].shape[:2]) for row, zoom in pictures]
    cell_px = max([cell_px, *(width for _, width in sizes)])
    plot_px = _BAR_PX * _NUM_BARS + 2 * _GAP_PX
    width = max(max(map(len, rows)) * (cell_px + _GAP_PX), len(counts) * plot_px)
    heights = [height + _CAPTION_PX + _GAP_PX for height, _ in sizes]
    plots_px = _PLOT_HEIGHT_PX + 3 * _CAPTION_PX if counts else 0
    sheet = Image.new("RGB", (width, sum(heights) + plots_px), "white")
    draw, top = ImageDraw.Draw(sheet), 0
    for row, (height, shown_px), step in zip(rows, sizes, heights, strict=True):
        for column, (caption, image) in enumerate(row):
            left = column * (cell_px + _GAP_PX)
            tile = Image.fromarray(np.rint(image * 255.0).astype(np.uint8))
            sheet.paste(tile.resize((shown_px, height), Image.Resampling.NEAREST), (left, top))
            draw.text((left, top + height), caption, fill="black")
        top += step
    for index, (title, values) in enumerate(counts.items()):
        _histogram(draw, title, values, left=index * plot_px + _GAP_PX, top=top)
    return sheet


def _histogram(
    draw: ImageDraw.ImageDraw, title: str, values: np.ndarray, *, left: int, top: int
) -> None:
    low, high = float(values.min()), float(values.max())
    counts, _ = np.histogram(values, _NUM_BARS, (low, max(high, low + 1e-6)))
    floor = top + _CAPTION_PX + _PLOT_HEIGHT_PX
    draw.text((left, top), f"{title} ({len(values)})", fill="black")
    for bar, count in enumerate(counts):
        if count:
            height = max(1, round((_PLOT_HEIGHT_PX - _CAPTION_PX) * count / counts.max()))
            x = left + bar * _BAR_PX
            draw.rectangle((x, floor - height, x + _BAR_PX - 2, floor), fill="steelblue")
    draw.line((left, floor + 1, left + _BAR_PX * _NUM_BARS, floor + 1), fill="black")
    draw.text((left, floor + 2), f"{low:.3g}", fill="black")
    draw.text((left + _BAR_PX * _NUM_BARS - 36, floor + 2), f"{high:.3g}", fill="black")
