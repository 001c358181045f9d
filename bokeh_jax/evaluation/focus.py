"""Whether the focus that is found is where the photographer had focused.

The task 'focus' is trained without any label; the hidden truth is read here, and nowhere below.
Of photograph i with its focus at the distance s, whose relative disparity d stands for
low + m d in 1/m, an answer δ is at the distance

    (1) ŝ = 1 / (low + m δ)

and within q of the truth where |ŝ / s − 1| <= q. The answer is relative disparity; metres are how
it is judged, by the scene's own scale, which no method is told.

Beside the transformer stand answers that need no training, of what it is shown:

    nearest           the nearest thing
    centre            the median in the middle sixth of the frame
    centre_weighted   the mean under a Gaussian about the middle, a sixth of the shorter side wide
    median            of the frame

and `search`, which is told more than any of them, the photograph and the same all in focus: the
depth and the blur of which the lens explains it best, tried one by one.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from bokeh_jax.config import ExperimentConfig
from bokeh_jax.errors import InvalidInput
from bokeh_jax.evaluation.metrics import Mean
from bokeh_jax.evaluation.on_mesh import batches, collected, replicating
from bokeh_jax.evaluation.statistics import bootstrap_mean, paired_difference
from bokeh_jax.models.focus_transformer import likeliest, token_disparity
from bokeh_jax.objectives.exif_defocus import answer_of, candidates, lens_errors, scenes_of
from bokeh_jax.optics import Exif, Lens
from bokeh_jax.training.focus_data import attention_picture, lens_blur_of
from data_pipeline.dataset import dataset_info, load_split
from data_pipeline.hidden import load_hidden

MODEL = "transformer"
NAMES = {
    MODEL: "focus distance transformer, likeliest depth",
    "transformer_mean": "the same, mean depth under its attention",
    "nearest": "nearest thing",
    "centre": "median of the centre",
    "centre_weighted": "centre-weighted mean",
    "median": "median of the frame",
    "search": "search, told the photograph and it all in focus",
}
BASELINES = ("nearest", "centre", "centre_weighted", "median")
WITHIN = (0.1, 0.25)
SHOWN = ("image", "disparity", "attention", "lens blur of the answer", "photograph")
_SEARCHED_DEPTHS = 8
_SEARCHED_OCTAVES = (-1.0, 0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class FocusResult:
    """Answers on one split.

    Attributes:
        split: of the dataset.
        focus: method -> focus in relative disparity, [n].
        truth: hidden, relative disparity, [n].
        range_per_m: hidden, metric disparities of 0 and 1, [n, 2].
        octaves: log₂ of the transformer's blur K over the hidden one, [n].
        uncertainty: of the transformer, [n].
        pictures: rows of `SHOWN`, sRGB [0, 1].
    """

    split: str
    focus: dict[str, Float[np.ndarray, " n"]]
    truth: Float[np.ndarray, " n"]
    range_per_m: Float[np.ndarray, "n 2"]
    octaves: Float[np.ndarray, " n"]
    uncertainty: Float[np.ndarray, " n"]
    pictures: Float[np.ndarray, "rows columns h w 3"]

    def distance_m(self, focus: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Equation (1)."""
        low, high = self.range_per_m.T
        return 1.0 / np.maximum(low + (high - low) * focus, 1e-6)

    def within(self, method: str, share: float) -> Float[np.ndarray, " n"]:
        """1 where an answer is within `share` of the hidden distance, else 0."""
        ratio = self.distance_m(self.focus[method]) / self.distance_m(self.truth)
        return (np.abs(ratio - 1.0) <= share).astype(np.float64)

    def disparity_error(self, method: str) -> Float[np.ndarray, " n"]:
        """|δ − truth|, relative disparity."""
        return np.abs(self.focus[method] - self.truth).astype(np.float64)


def make_focus_evaluation(
    config: ExperimentConfig, mesh: Mesh
) -> Callable[[Any], list[FocusResult]]:
    """Parameters -> answers on every split of `config.evaluation`, beside those of the baselines.

    Args:
        config: the experiment.
        mesh: the devices that share parameters and scenes.

    Raises:
        InvalidInput: the dataset lacks a split, or what the task needs, or the hidden truth.
    """
    scenes = {split: _load(config, split) for split in config.evaluation.splits}
    answer = replicating(functools.partial(_answers, config=config), mesh)
    size = config.evaluation.batch_size

    def evaluate(params: Any) -> list[FocusResult]:
        results = []
        for split, (batch, hidden) in scenes.items():
            with jax.set_mesh(mesh):
                found = collected(
                    [(answer(params, rows), count) for rows, count in batches(batch, size, mesh)]
                )
            results.append(_result(split, found, batch, hidden))
        return results

    return evaluate


def _load(
    config: ExperimentConfig, split: str
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The first scenes of a split's first group, and what is hidden of them."""
    path = Path(config.data.path)
    info = dataset_info(path)
    if split not in info.splits:
        raise InvalidInput(f"split is {split!r}; allowed in {path}: {', '.join(info.splits)}")
    batch = load_split(path, split, limit=config.evaluation.num_scenes, taken=True)
    hidden = {name: value[batch["scene_id"]] for name, value in load_hidden(path, split).items()}
    known = ("focus_distance_m", "disparity_range_per_m")
    if not all(np.isfinite(hidden[name]).all() for name in known):
        raise InvalidInput(
            f"split {split} of {path} has photographs whose focus distance is not known; allowed: "
            "ones with it, such as `data build --source=photographer` makes"
        )
    return batch, hidden


def _answers(params: Any, batch: dict[str, Array], *, config: ExperimentConfig) -> dict[str, Array]:
    """What all methods say, and pictures of it."""
    image, photograph, disparity, exif = scenes_of(batch)
    answer = answer_of(params, image, photograph, disparity, exif, model=config.focus)
    chosen = answer._replace(focus_disparity=likeliest(answer))
    return baselines(disparity) | {
        MODEL: chosen.focus_disparity,
        "transformer_mean": answer.focus_disparity,
        "search": searched(image, photograph, disparity, exif, config),
        "uncertainty": answer.uncertainty,
        "blur_px": exif.lens(chosen.focus_disparity, answer.scale_m, image.shape[2]).blur_px,
        "attention_picture": attention_picture(answer.attention, image, config.focus.patch_size),
        "lens_blur": lens_blur_of(chosen, image, disparity, exif, config.exif.max_blur_fraction),
    }


def baselines(disparity: Float[Array, "b h w"]) -> dict[str, Float[Array, " b"]]:
    """The answers that need no training; see the module's head."""
    height, width = disparity.shape[1:]
    y = (np.arange(height) + 0.5 - height / 2)[:, None]
    x = (np.arange(width) + 0.5 - width / 2)[None, :]
    spread_px = min(height, width) / 6
    weights = np.exp(-0.5 * (x**2 + y**2) / spread_px**2)
    weights = jnp.asarray(weights / weights.sum(), disparity.dtype)[None]
    rows = slice(5 * height // 12, -(-7 * height // 12))
    columns = slice(5 * width // 12, -(-7 * width // 12))
    return {
        "nearest": jnp.max(disparity, axis=(1, 2)),
        "centre": jnp.median(disparity[:, rows, columns], axis=(1, 2)),
        "centre_weighted": jnp.sum(weights * disparity, axis=(1, 2)),
        "median": jnp.median(disparity, axis=(1, 2)),
    }


def searched(
    image: Float[Array, "b h w 3"],
    photograph: Float[Array, "b h w 3"],
    disparity: Float[Array, "b h w"],
    exif: Exif,
    config: ExperimentConfig,
) -> Float[Array, " b"]:
    """The depth of which the lens explains the photograph best, at the best of three lengths σ."""
    depths = candidates(token_disparity(disparity, config.focus.patch_size), _SEARCHED_DEPTHS)

    def errors(octaves: Float[Array, ""]) -> Float[Array, "b k"]:
        scale_m = jnp.broadcast_to(config.focus.scale_start_m * jnp.exp2(octaves), image.shape[:1])
        return lens_errors(
            image,
            photograph,
            disparity,
            exif,
            depths,
            scale_m,
            max_blur_fraction=config.exif.max_blur_fraction,
        )

    tried = jax.lax.map(errors, jnp.asarray(_SEARCHED_OCTAVES, jnp.float32))
    best = jnp.argmin(jnp.min(tried, axis=0), axis=1)
    return jnp.take_along_axis(depths, best[:, None], axis=1)[:, 0]


def _result(
    split: str,
    found: dict[str, np.ndarray],
    batch: dict[str, np.ndarray],
    hidden: dict[str, np.ndarray],
    rows: int = 8,
) -> FocusResult:
    distance_m, range_per_m = hidden["focus_distance_m"], hidden["disparity_range_per_m"]
    low, high = range_per_m.T
    blur_px = _hidden_blur_px(batch, distance_m, range_per_m)
    depth = batch["disparity"][:rows, ..., None] / np.float32(65535.0)
    pictures = (
        batch["image"][:rows] / np.float32(255.0),
        np.repeat(depth, 3, axis=-1),
        found["attention_picture"][:rows],
        found["lens_blur"][:rows],
        batch["photograph"][:rows] / np.float32(255.0),
    )
    return FocusResult(
        split=split,
        focus={name: found[name].astype(np.float64) for name in NAMES},
        truth=((1.0 / distance_m - low) / (high - low)).astype(np.float64),
        range_per_m=range_per_m.astype(np.float64),
        octaves=np.log2(found["blur_px"] / blur_px).astype(np.float64),
        uncertainty=found["uncertainty"].astype(np.float64),
        pictures=np.clip(np.stack(pictures, axis=1), 0.0, 1.0).astype(np.float32),
    )


def _hidden_blur_px(
    batch: dict[str, np.ndarray],
    distance_m: Float[np.ndarray, " n"],
    range_per_m: Float[np.ndarray, "n 2"],
) -> Float[np.ndarray, " n"]:
    """K of relative disparity, by the thin lens in metres (`optics.lens`)."""
    exif = Exif.from_fields(jnp.asarray(batch["camera"]))
    lens = Lens.from_camera(
        focal_length_m=exif.focal_length_m,
        f_number=exif.f_number,
        focus_distance_m=jnp.asarray(distance_m),
        sensor_width_m=exif.sensor_width_m,
        width_px=batch["image"].shape[2],
    )
    return np.asarray(lens.blur_px) * np.diff(range_per_m, axis=1)[:, 0]


def summary(results: list[FocusResult]) -> dict[str, Any]:
    """Numbers of all results as a JSON tree, each with its bootstrap interval."""
    return {result.split: summary_of(result) for result in results}


def summary_of(result: FocusResult) -> dict[str, Any]:
    """Numbers of one split: shares of photographs, errors, gains, each with its interval."""
    surer = result.uncertainty <= np.median(result.uncertainty)
    widest = result.within(MODEL, WITHIN[-1])
    return {
        "images": len(result.truth),
        "within": {
            f"{share:g}": {
                name: vars(bootstrap_mean(result.within(name, share))) for name in result.focus
            }
            for share in WITHIN
        },
        "disparity_error": {
            name: vars(bootstrap_mean(result.disparity_error(name))) for name in result.focus
        },
        "gain_within": {
            f"{share:g}": {name: vars(gain(result, name, share)) for name in BASELINES}
            for share in WITHIN
        },
        "blur_octaves_error": vars(bootstrap_mean(np.abs(result.octaves))),
        "surer_half_within": vars(bootstrap_mean(widest[surer])),
        "other_half_within": (None if surer.all() else vars(bootstrap_mean(widest[~surer]))),
    }


def gain(result: FocusResult, baseline: str, share: float) -> Mean:
    """How many more photographs the transformer has within `share`, a share of all of them."""
    return paired_difference(result.within(MODEL, share), result.within(baseline, share))
