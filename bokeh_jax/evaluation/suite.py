"""Evaluation of a checkpoint on simulated scenes, next to what needs no training.

Tasks, all from the run's own blur range with the camera rates set to one of the corners:

    refocus     reference and targets defocused, on different planes
    add_bokeh   reference all in focus, targets defocused
    deblur      reference defocused, targets all in focus

The methods are those of `methods`. Crops, cameras and noise come from the evaluation's own seed, so
every checkpoint of every run meets the same questions, on any number of devices.

Only the first target of a scene is scored: the one on a plane far from the reference's. The others
may lie on the reference's own plane, where doing nothing scores best. All targets of a scene are
blended for the stacking score: the answers' blend against the truths', with the weights of the
stacking constraint.

Every question can be asked again with the disparity damaged, or with none.
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

from bokeh_jax.config import ExperimentConfig
from bokeh_jax.errors import InvalidInput
from bokeh_jax.evaluation.methods import (
    BASELINES,
    METHODS,
    WITHOUT_DISPARITY,
    Pictures,
    Told,
    make_methods,
)
from bokeh_jax.evaluation.metrics import Mean, mean_with_interval, psnr_db
from bokeh_jax.evaluation.on_mesh import (
    batches,
    collected,
    evaluation_mesh,
    key_rows,
    replicating,
)
from bokeh_jax.objectives import as_known
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
# What a scene's disparity is told as.
_FLAGS = ("damaged", "disparity_given")
# task -> (rate of all-in-focus references, rate of all-in-focus targets)
TASKS = {"refocus": (0.0, 0.0), "add_bokeh": (1.0, 0.0), "deblur": (0.0, 1.0)}


@dataclasses.dataclass(frozen=True)
class TaskResult:
    """One task on one split.

    Attributes:
        split: dataset split.
        task: key of `TASKS`.
        disparity: how it was told, of `EvaluationConfig.disparity`.
        psnr_db: method -> PSNR of every scene's first target, [n].
        stacked_psnr_db: method -> PSNR of the blend of every scene's answers, [n].
        asked: what the questions differ in, [n]: `blur` (K / width, of the asked camera or, where
            that is all in focus, of the reference's) and `focus_change` (disparity between the
            asked focus plane and the reference's).
        pictures: rows of `SHOWN` of the first group, [rows, 9, h, w, 3], sRGB [0, 1].
        best, worst: such rows, where the model gains most and least on the lens blur that knows
            the same.
    """

    split: str
    task: str
    disparity: str
    psnr_db: dict[str, np.ndarray]
    stacked_psnr_db: dict[str, np.ndarray]
    asked: dict[str, np.ndarray]
    pictures: np.ndarray
    best: np.ndarray
    worst: np.ndarray

    @property
    def key(self) -> str:
        """SPLIT/TASK, with /DISPARITY where it is not clean."""
        parts = (self.split, self.task, *((self.disparity,) if self.disparity != "clean" else ()))
        return "/".join(parts)

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

    answers_of = functools.partial(_answers, config=config, methods=methods)
    # Tasks and kinds of disparity differ in values only, so they share the large program.
    answer = replicating(answers_of, mesh)
    draws = {
        task: jax.jit(functools.partial(_drawn, config=task_simulation(config.simulation, task)))
        for task in TASKS
    }

    def answers(params: PyTree, task: str, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        parts = []
        for batch, count in batches(rows, config.evaluation.batch_size, mesh):
            told = {name: batch[name] for name in ("text", "pooled") if name in batch}
            flags = [batch[name] for name in _FLAGS]
            parts.append((answer(params, *draws[task](batch), told, *flags), count))
        return collected(parts)

    def score(params: PyTree, split: str, task: str, disparity: str) -> TaskResult:
        scenes = groups[split]
        counts = [len(group["scene_id"]) for group in scenes]
        root = step_key(config.evaluation.seed, "evaluation", list(TASKS).index(task))
        own = np.split(key_rows(example_keys(root, sum(counts))), np.cumsum(counts)[:-1])
        with jax.set_mesh(mesh):
            pictures = [
                answers(params, task, group | {"key": rows} | _flags(disparity, len(rows)))
                for group, rows in zip(scenes, own, strict=True)
            ]
        return _score(split, task, disparity, pictures)

    def evaluate(params: PyTree) -> list[TaskResult]:
        return [
            score(params, split, task, disparity)
            for disparity in config.evaluation.disparity
            for task in TASKS
            for split in groups
        ]

    return evaluate


def _flags(disparity: str, count: int) -> dict[str, np.ndarray]:
    """A kind of disparity as values of a batch."""
    values = (disparity == "damaged", np.float32(disparity != "absent"))
    return {name: np.full(count, value) for name, value in zip(_FLAGS, values, strict=True)}


def _answers(
    params: PyTree,
    scenes: Scene,
    cameras: Cameras,
    keys: jax.Array,
    told: Told,
    damaged: jax.Array,
    disparity_given: jax.Array,
    *,
    config: ExperimentConfig,
    methods: Callable[..., Pictures],
) -> Pictures:
    """What `methods` answer, and what the scores need besides."""
    pairs = photograph_pairs(scenes, cameras, config.simulation)
    known = pairs
    if "damaged" in config.evaluation.disparity:
        noise = dataclasses.replace(config.objective.depth_noise, rate=1.0)
        own = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
        known = jax.tree.map(
            lambda bad, true: jnp.where(damaged.reshape(-1, *(1,) * (true.ndim - 1)), bad, true),
            as_known(pairs, own, noise),
            pairs,
        )
    found = methods(params, known, keys, told, disparity_given)
    reference, first = cameras.reference, jax.tree.map(lambda leaf: leaf[:, 0], cameras.targets)
    blur_px = jnp.where(first.blur_px > 0, first.blur_px, reference.blur_px)
    return found | {
        "weights": pairs.weights,
        "blur": blur_px / pairs.disparity.shape[2],
        "focus_change": jnp.abs(first.focus_disparity - reference.focus_disparity),
    }


def _drawn(
    batch: dict[str, jax.Array], config: SimulationConfig
) -> tuple[Scene, Cameras, jax.Array]:
    """Crops and cameras of a batch, and the scenes' keys."""
    keys = jax.random.wrap_key_data(batch["key"])
    scenes = {name: value for name, value in batch.items() if name not in ("key", *_FLAGS)}
    return *draw_scenes(scenes, keys, config), keys


def evaluate(config: ExperimentConfig, params: PyTree) -> list[TaskResult]:
    """Results of one set of parameters; see `make_evaluation`."""
    return make_evaluation(config, evaluation_mesh(config))(params)


def _score(
    split: str, task: str, disparity: str, groups: list[dict[str, np.ndarray]], rows: int = 6
) -> TaskResult:
    """Scores of all groups; pictures of the first one."""
    able = METHODS if disparity != "absent" else WITHOUT_DISPARITY

    def scores(seen: Callable[[dict[str, np.ndarray], str], np.ndarray]) -> dict[str, np.ndarray]:
        return {
            name: np.concatenate(
                [psnr_db(seen(found, name), seen(found, "truth")) for found in groups]
            )
            for name in able
        }

    psnr = scores(lambda found, name: found[name][:, 0])
    blend = lambda found, name: np.sum(found["weights"][..., None] * found[name], axis=1)  # noqa: E731
    asked = {
        name: np.concatenate([found[name] for found in groups]) for name in ("blur", "focus_change")
    }
    # Of what has no answer, a black picture.
    nothing = np.zeros_like(groups[0]["truth"][:, 0])
    shown = [groups[0][name][:, 0] if name in (*able, "truth") else nothing for name in SHOWN]
    first = np.stack(shown, axis=1)
    model, baseline = ("model_known_camera", "lens_blur_known_camera")
    gain = psnr[model] - psnr[baseline] if model in able else psnr["model"] - psnr["unchanged"]
    order = np.argsort(gain[: len(first)])
    few = min(rows // 2, len(first))
    best, worst = first[order[::-1][:few]], first[order[:few]]
    return TaskResult(split, task, disparity, psnr, scores(blend), asked, first[:rows], best, worst)


def summary(results: list[TaskResult]) -> dict[str, Any]:
    """Numbers of all results as a JSON tree; methods without an answer are not in it."""

    def means(scores: dict[str, np.ndarray]) -> dict[str, Any]:
        return {name: vars(mean_with_interval(values)) for name, values in scores.items()}

    return {
        result.key: {
            "images": len(result.psnr_db["model"]),
            "psnr_db": means(result.psnr_db),
            "stacked_psnr_db": means(result.stacked_psnr_db),
            "gain_db": {
                model: {
                    name: vars(result.gain(model, name)) for name in names if name in result.psnr_db
                }
                for model, names in BASELINES.items()
                if model in result.psnr_db
            },
        }
        for result in results
    }
