"""Evaluation of a checkpoint on simulated scenes, next to what needs no training.

Tasks, all from the run's own blur range with the camera rates set to one of the corners:

    refocus     reference and targets defocused, on different planes
    add_bokeh   reference all in focus, targets defocused
    deblur      reference defocused, targets all in focus

The methods are those of `methods`. Crops, cameras and noise come from the evaluation's own seed, so
every checkpoint of every run meets the same questions, on any number of devices.

Only the first target of a scene is scored: the one on a plane far from the reference's. The others
may lie on the reference's own plane, where doing nothing scores best.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bokeh_jax.config import ExperimentConfig
from bokeh_jax.errors import InvalidInput
from bokeh_jax.evaluation.methods import BASELINES, METHODS, Told, make_methods
from bokeh_jax.evaluation.metrics import Mean, mean_with_interval, psnr_db
from bokeh_jax.evaluation.on_mesh import (
    batches,
    collected,
    evaluation_mesh,
    key_rows,
    replicating,
)
from bokeh_jax.simulation import (
    AugmentConfig,
    Cameras,
    Scene,
    SimulationConfig,
    draw_scenes,
    photograph_pairs,
)
from bokeh_jax.training.preflight import reads_text
from bokeh_jax.training.rng import example_keys, step_key
from data_pipeline.dataset import dataset_info, load_split

PyTree = Any
# What pictures show, from left to right.
SHOWN = (*METHODS, "truth")
# task -> (rate of all-in-focus references, rate of all-in-focus targets)
TASKS = {"refocus": (0.0, 0.0), "add_bokeh": (1.0, 0.0), "deblur": (0.0, 1.0)}


@dataclasses.dataclass(frozen=True)
class TaskResult:
    """One task on one split.

    Attributes:
        split: dataset split.
        task: key of `TASKS`.
        psnr_db: method -> PSNR of every scene's first target, [n].
        pictures: rows of `SHOWN` of the first group, [rows, 9, h, w, 3], sRGB [0, 1].
        best, worst: such rows, where the model gains most and least on the lens blur that knows
            the same.
    """

    split: str
    task: str
    psnr_db: dict[str, np.ndarray]
    pictures: np.ndarray
    best: np.ndarray
    worst: np.ndarray

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


def _load_groups(config: ExperimentConfig, split: str) -> list[dict[str, np.ndarray]]:
    """The first scenes of every group of a split; groups share `evaluation.num_scenes` by size."""
    settings, path = config.evaluation, Path(config.data.path)
    info = dataset_info(path)
    if split not in info.splits:
        raise InvalidInput(f"split is {split!r}; allowed in {path}: {', '.join(info.splits)}")
    total = info.counts[split]
    loaded = []
    for index, group in enumerate(info.splits[split]):
        count = min(-(-settings.num_scenes * group.num_scenes // total), group.num_scenes)
        if count:
            text = reads_text(config)
            loaded.append(load_split(path, split, limit=count, group=index, text=text))
    if not loaded:
        raise InvalidInput(f"split {split} of {path} has no scene; allowed: at least 1")
    return loaded


def make_evaluation(config: ExperimentConfig, mesh: Mesh) -> Callable[[PyTree], list[TaskResult]]:
    """Parameters -> results of every task on every split of `config.evaluation`.

    What it needs is read and compiled once, however many checkpoints it is given. In a job of
    several processes all of them make it and call it, and all get the results.

    Args:
        config: the experiment.
        mesh: the devices that share parameters and scenes.

    Raises:
        InvalidInput: the run trains something else than refocusing, the dataset lacks a split, or
            has no scene in it.
    """
    if config.task != "refocus":
        raise InvalidInput(
            f"run has task={config.task!r}; allowed: 'refocus' (of an autoencoder see "
            "reconstruction_psnr_db in metrics.jsonl)"
        )
    groups = {split: _load_groups(config, split) for split in config.evaluation.splits}
    methods = make_methods(config)

    def photographed(params: PyTree, scenes: Scene, cameras: Cameras, keys: jax.Array, told: Told):
        pairs = photograph_pairs(scenes, cameras, config.simulation)
        return methods(params, pairs, keys, told)

    # Tasks differ in their cameras only, so they share the large one of the two programs.
    answer = replicating(photographed, mesh)
    draws = {
        task: jax.jit(functools.partial(_drawn, config=task_simulation(config.simulation, task)))
        for task in TASKS
    }

    def answers(params: PyTree, task: str, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        parts = []
        for batch, count in batches(rows, config.evaluation.batch_size, mesh):
            told = {name: batch[name] for name in ("text", "pooled") if name in batch}
            parts.append((answer(params, *draws[task](batch), told), count))
        return collected(parts)

    def evaluate(params: PyTree) -> list[TaskResult]:
        results = []
        for task_index, task in enumerate(TASKS):
            for split, scenes in groups.items():
                counts = [len(group["scene_id"]) for group in scenes]
                keys = key_rows(
                    example_keys(
                        step_key(config.evaluation.seed, "evaluation", task_index), sum(counts)
                    )
                )
                own = np.split(keys, np.cumsum(counts)[:-1])
                with jax.set_mesh(mesh):
                    pictures = [
                        answers(params, task, group | {"key": rows})
                        for group, rows in zip(scenes, own, strict=True)
                    ]
                results.append(_score(split, task, pictures))
        return results

    return evaluate


def _drawn(
    batch: dict[str, jax.Array], config: SimulationConfig
) -> tuple[Scene, Cameras, jax.Array]:
    """Crops and cameras of a batch, and the scenes' keys."""
    keys = jax.random.wrap_key_data(batch["key"])
    scenes = {name: value for name, value in batch.items() if name != "key"}
    return *draw_scenes(scenes, keys, config), keys


def evaluate(config: ExperimentConfig, params: PyTree) -> list[TaskResult]:
    """Results of one set of parameters; see `make_evaluation`."""
    return make_evaluation(config, evaluation_mesh(config))(params)


def _score(split: str, task: str, groups: list[dict[str, np.ndarray]], rows: int = 6) -> TaskResult:
    """Scores of all groups; pictures of the first one."""
    scores = {
        method: np.concatenate(
            [psnr_db(pictures[method][:, 0], pictures["truth"][:, 0]) for pictures in groups]
        )
        for method in METHODS
    }
    first = np.stack([groups[0][name][:, 0] for name in SHOWN], axis=1)
    gain = scores["model_known_camera"] - scores["lens_blur_known_camera"]
    order = np.argsort(gain[: len(first)])
    few = min(rows // 2, len(first))
    best, worst = first[order[::-1][:few]], first[order[:few]]
    return TaskResult(split, task, scores, first[:rows], best, worst)


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
