"""Evaluation of a checkpoint on simulated scenes, next to two baselines.

Tasks, all from the run's own blur range with the camera rates set to one of the corners:

    refocus     reference and targets defocused, on different planes
    add_bokeh   reference all in focus, targets defocused
    deblur      reference defocused, targets all in focus

Methods: `unchanged` returns the reference; `lens_blur` blurs the reference as if it were all in
focus, with the true disparity; `lens_blur_known_camera` adds only the blur that is missing. `model`
is the checkpoint, told disparity and asked camera; `model_known_camera` is told the reference's
camera too. Crops, cameras and noise come from the evaluation's own seed, so every checkpoint of
every run meets the same questions.

Only the first target of a scene is scored: the one on a plane far from the reference's. The others
may lie on the reference's own plane, where doing nothing scores best.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bokeh_jax.config import ExperimentConfig
from bokeh_jax.errors import InvalidInput
from bokeh_jax.evaluation.metrics import Mean, mean_with_interval, psnr_db
from bokeh_jax.objectives import refocus_pairs, to_model_range
from bokeh_jax.simulation import (
    AugmentConfig,
    Cameras,
    Scene,
    SimulationConfig,
    draw_scenes,
    photograph_pairs,
    physics_guess,
)
from bokeh_jax.training.preflight import reads_text
from bokeh_jax.training.rng import example_keys, step_key
from data_pipeline.dataset import dataset_info, load_split

PyTree = Any
Told = dict[str, Any]
METHODS = ("unchanged", "lens_blur", "lens_blur_known_camera", "model", "model_known_camera")
# What each model is compared with: what could be done with the same knowledge, or less.
BASELINES = {
    "model": ("unchanged", "lens_blur"),
    "model_known_camera": ("unchanged", "lens_blur", "lens_blur_known_camera"),
}
# task -> (rate of all-in-focus references, rate of all-in-focus targets)
SHOWN = ("unchanged", "lens_blur", "lens_blur_known_camera", "model", "model_known_camera", "truth")
TASKS = {"refocus": (0.0, 0.0), "add_bokeh": (1.0, 0.0), "deblur": (0.0, 1.0)}


@dataclasses.dataclass(frozen=True)
class TaskResult:
    """One task on one split.

    Attributes:
        split: dataset split.
        task: key of `TASKS`.
        psnr_db: method -> PSNR of every scene's first target, [n].
        pictures: rows of `SHOWN` of the first group, [rows, 6, h, w, 3], sRGB [0, 1].
    """

    split: str
    task: str
    psnr_db: dict[str, np.ndarray]
    pictures: np.ndarray

    def mean(self, method: str) -> Mean:
        """Mean PSNR of a method."""
        return mean_with_interval(self.psnr_db[method])

    def gain(self, model: str, baseline: str) -> Mean:
        """Mean of model minus baseline, image by image: positive where the model is ahead."""
        return mean_with_interval(self.psnr_db[model] - self.psnr_db[baseline])


def task_simulation(simulation: SimulationConfig, task: str) -> SimulationConfig:
    """The run's simulation with the camera rates of one task; scenes as they are stored."""
    reference_rate, target_rate = TASKS[task]
    cameras = dataclasses.replace(
        simulation.cameras,
        all_in_focus_reference_rate=reference_rate,
        all_in_focus_target_rate=target_rate,
    )
    return dataclasses.replace(simulation, cameras=cameras, augment=AugmentConfig(flip_rate=0.0))


def _to_display(values: jax.Array) -> jax.Array:
    return jnp.clip(0.5 * (values + 1.0), 0.0, 1.0)


def _make_answer(config: ExperimentConfig) -> Callable[..., dict[str, jax.Array]]:
    """Jitted (params, scenes, cameras, keys, what is told) -> pictures of methods and truth.

    Pictures are [b, m, h, w, 3] in [0, 1]. Tasks differ in their cameras only, so they share it.
    """

    @jax.jit
    def answer(params: PyTree, scenes: Scene, cameras: Cameras, keys: jax.Array, told: Told):
        max_radius_px = config.simulation.max_radius_px(scenes.disparity.shape[2])
        pairs = photograph_pairs(scenes, cameras, config.simulation)
        samples = {
            name: refocus_pairs(
                params,
                pairs,
                keys,
                model=config.model,
                objective=config.objective,
                max_radius_px=max_radius_px,
                codec=config.codec,
                reference_camera_given=known,
                told=told,
                **dataclasses.asdict(config.sampler),
            )
            for name, known in (("model", False), ("model_known_camera", True))
        }
        count = pairs.targets.shape[1]
        per_target = lambda value: jnp.repeat(value[:, None], count, axis=1)  # noqa: E731
        reference = per_target(pairs.reference)
        # Not taken from the conditions: runs without the guide are compared with it too.
        blurred = {
            name: physics_guess(
                reference,
                per_target(pairs.disparity),
                cameras.targets,
                max_radius_px=max_radius_px,
                reference_lens=jax.tree.map(per_target, cameras.reference),
                reference_camera_given=jnp.full(reference.shape[:2], float(known)),
            )
            for name, known in (("lens_blur", False), ("lens_blur_known_camera", True))
        }
        return {
            "unchanged": _to_display(to_model_range(reference)),
            **{name: _to_display(to_model_range(image)) for name, image in blurred.items()},
            **{name: _to_display(sample) for name, sample in samples.items()},
            "truth": _to_display(to_model_range(pairs.targets)),
        }

    return answer


def _load_groups(config: ExperimentConfig, split: str) -> list[dict[str, np.ndarray]]:
    """Whole batches of every group of a split: few compiled shapes, the same scenes every time.

    Groups share `evaluation.num_scenes` by their sizes.
    """
    settings, path = config.evaluation, Path(config.data.path)
    info = dataset_info(path)
    if split not in info.splits:
        raise InvalidInput(f"split is {split!r}; allowed in {path}: {', '.join(info.splits)}")
    total = info.counts[split]
    loaded = []
    for index, group in enumerate(info.splits[split]):
        limit = -(-settings.num_scenes * group.num_scenes // total)
        count = min(limit, group.num_scenes) // settings.batch_size * settings.batch_size
        if count:
            text = reads_text(config)
            loaded.append(load_split(path, split, limit=count, group=index, text=text))
    if not loaded:
        largest = max(group.num_scenes for group in info.splits[split])
        raise InvalidInput(
            f"split {split} has {largest} scenes of one shape; allowed: "
            f"evaluation.batch_size={settings.batch_size} or more"
        )
    return loaded


def _answers(
    answer: Callable[..., dict[str, jax.Array]],
    draw: Callable[..., tuple[Scene, Cameras]],
    params: PyTree,
    scenes: dict[str, np.ndarray],
    keys: jax.Array,
    batch_size: int,
) -> dict[str, np.ndarray]:
    """Pictures of one group's scenes, batch by batch."""
    parts = []
    for start in range(0, len(keys), batch_size):
        rows = slice(start, start + batch_size)
        batch = {name: value[rows] for name, value in scenes.items()}
        told = {name: batch[name] for name in ("text", "pooled") if name in batch}
        drawn = draw(batch, keys[rows])
        parts.append(jax.device_get(answer(params, *drawn, keys[rows], told)))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def evaluate(config: ExperimentConfig, params: PyTree) -> list[TaskResult]:
    """Runs every task on every split of `config.evaluation`.

    Args:
        config: the experiment.
        params: of its whole network.

    Raises:
        InvalidInput: the run trains something else than refocusing, the dataset lacks a split, or
            has too few scenes for one batch.
    """
    if config.task != "refocus":
        raise InvalidInput(
            f"run has task={config.task!r}; allowed: 'refocus' (of an autoencoder see "
            "reconstruction_psnr_db in metrics.jsonl)"
        )
    settings, results = config.evaluation, []
    answer = _make_answer(config)
    groups = {split: _load_groups(config, split) for split in settings.splits}
    for task_index, task in enumerate(TASKS):
        simulation = task_simulation(config.simulation, task)
        draw = jax.jit(functools.partial(draw_scenes, config=simulation))
        for split in settings.splits:
            pictures, first = [], 0
            keys = example_keys(
                step_key(settings.seed, "evaluation", task_index),
                sum(len(scenes["scene_id"]) for scenes in groups[split]),
            )
            for scenes in groups[split]:
                own = keys[first : first + len(scenes["scene_id"])]
                first += len(own)
                pictures.append(_answers(answer, draw, params, scenes, own, settings.batch_size))
            results.append(_score(split, task, pictures))
    return results


def _score(split: str, task: str, groups: list[dict[str, np.ndarray]], rows: int = 6) -> TaskResult:
    """Scores of all groups; pictures of the first one."""
    scores = {
        method: np.concatenate(
            [psnr_db(pictures[method][:, 0], pictures["truth"][:, 0]) for pictures in groups]
        )
        for method in METHODS
    }
    shown = [groups[0][name][:rows, 0] for name in SHOWN]
    return TaskResult(split, task, scores, np.stack(shown, axis=1))


def summary(results: list[TaskResult]) -> dict[str, Any]:
    """Numbers of all results as a JSON tree."""
    return {
        f"{result.split}/{result.task}": {
            "images": len(result.psnr_db["model"]),
            "psnr_db": {name: dataclasses.asdict(result.mean(name)) for name in METHODS},
            "gain_db": {
                model: {name: dataclasses.asdict(result.gain(model, name)) for name in names}
                for model, names in BASELINES.items()
            },
        }
        for result in results
    }
