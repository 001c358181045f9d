"""`bokeh-jax eval`: checkpoints of a run to numbers, pictures and TensorBoard.

    <workdir>/evaluation/scores.json               the newest evaluated step
    <workdir>/evaluation/step_300/scores.json      every evaluated step; step_300_raw of raw ones
    <workdir>/evaluation/step_300/images.csv       PSNR of every image, and what it was asked
    <workdir>/evaluation/step_300/SPLIT-TASK-pictures.png, -best.png, -worst.png
    <workdir>/evaluation/LABEL/step_300/           of `--label`: other settings beside the run's own
    <workdir>/tensorboard/evaluation/              one point a step and score

Runs with task='focus' or 'defocus' have photographs.csv and SPLIT-attention.png (`focus_scores`) in
place of images.csv and the pictures.

A step whose `scores.json` is there, and was made with the same settings, is done: `--all` and
`--watch` do each once, however often they are started. All files appear by rename.
"""

import csv
import dataclasses
import json
import math
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from bokeh_jax import config as config_lib
from bokeh_jax.commands.focus_scores import print_answers, write_answers
from bokeh_jax.config import ExperimentConfig
from bokeh_jax.errors import InvalidInput
from bokeh_jax.evaluation.focus import make_focus_evaluation
from bokeh_jax.evaluation.methods import METHODS, NAMES
from bokeh_jax.evaluation.on_mesh import evaluation_mesh
from bokeh_jax.evaluation.suite import TaskResult, make_evaluation, summary
from bokeh_jax.inference.photo_file import Photo, write_photo
from bokeh_jax.training import checkpoint
from bokeh_jax.training.board import own_writer
from bokeh_jax.training.checkpoint_record import DamagedCheckpoint
from bokeh_jax.training.frozen import load_network
from bokeh_jax.training.log import log
from bokeh_jax.training.panels import grid
from data_pipeline.dataset import dataset_info

EVALUATION_FOLDER = "evaluation"
SCORES_FILE = "scores.json"
IMAGES_FILE = "images.csv"
_COLUMNS = (
    *("split", "task", "disparity", "image", "blur", "focus_change"),
    *METHODS,
    *(f"stacked_{name}" for name in METHODS),
)


@dataclasses.dataclass(frozen=True)
class Which:
    """Which checkpoints to evaluate.

    Attributes:
        step: one step; None for the newest.
        every: all that are there.
        watch: those, and every new one until the run's last step.
        poll_seconds: how often `watch` looks.
        use_ema: the averaged parameters, or the raw ones.
        label: of results that are kept apart, such as those of another sampler; "" for none.
    """

    step: int | None = None
    every: bool = False
    watch: bool = False
    poll_seconds: float = 30.0
    use_ema: bool = True
    label: str = ""

    def __post_init__(self):
        if not re.fullmatch(r"[A-Za-z0-9_.=-]*", self.label) or self.label.startswith("step_"):
            raise InvalidInput(
                f"--label is {self.label!r}; allowed: letters, digits, _ . = and -, not step_..."
            )
        if (self.step is not None) + self.every + self.watch > 1:
            raise InvalidInput("more than one of --step, --all and --watch; allowed: one of them")
        if not 0 < self.poll_seconds < float("inf"):
            raise InvalidInput(f"--poll-seconds is {self.poll_seconds}; allowed: above 0")


def evaluate_workdir(workdir: Path, which: Which, overrides: list[str]) -> None:
    """Scores checkpoints: a table on stdout, scores and pictures in the run's folder.

    Raises:
        InvalidInput: there is no such checkpoint, or the run cannot be evaluated.
    """
    if which.watch:
        _wait(lambda: bool(checkpoint.steps(workdir)), which, f"{workdir} has no checkpoint yet")
    first = checkpoint.existing_step(workdir, which.step)
    config = checkpoint.load_config(workdir, first)
    config = config_lib.resolve(json.loads(config_lib.to_json(config)), overrides)
    mesh = evaluation_mesh(config)
    make, write, show = make_evaluation, _write_answers, _print
    if config.task in ("focus", "defocus"):
        make, write, show = make_focus_evaluation, write_answers, print_answers
    evaluate = make(config, mesh)
    asked = _settings(config)
    for step in _steps(workdir, which, config, asked):
        try:
            params = load_network(config, workdir, step, use_ema=which.use_ema, mesh=mesh)
        except DamagedCheckpoint as error:
            if not (which.watch or which.every):
                raise
            # It may have been pruned since it was listed.
            log(f"step {step} left out: {error}")
            continue
        results: list[Any] = evaluate(params)
        if jax.process_index() == 0:
            folder = folder_of(workdir, step, use_ema=which.use_ema, label=which.label)
            folder.mkdir(parents=True, exist_ok=True)
            _write(workdir, step, write(folder, results), which, asked)
            show(step, results)


def _settings(config: ExperimentConfig) -> dict[str, Any]:
    """What makes scores comparable besides the checkpoint."""
    tree = json.loads(config_lib.to_json(config))
    dataset = dataset_info(Path(config.data.path)).fingerprint
    return {name: tree[name] for name in ("evaluation", "sampler", "simulation")} | {
        "dataset": dataset
    }


def folder_of(workdir: Path, step: int, *, use_ema: bool, label: str = "") -> Path:
    """Where a step's results are."""
    return workdir / EVALUATION_FOLDER / label / f"step_{step}{'' if use_ema else '_raw'}"


def _is_done(workdir: Path, step: int, which: Which, asked: dict[str, Any]) -> bool:
    path = folder_of(workdir, step, use_ema=which.use_ema, label=which.label) / SCORES_FILE
    return path.is_file() and json.loads(path.read_text("utf-8")).get("settings") == asked


def _steps(
    workdir: Path, which: Which, config: ExperimentConfig, asked: dict[str, Any]
) -> Iterator[int]:
    """Steps in their order; process 0 says which, so that all processes do the same."""
    if not (which.every or which.watch):
        yield checkpoint.existing_step(workdir, which.step)
        return
    seen: set[int] = set()
    while True:
        new = [step for step in checkpoint.steps(workdir) if step not in seen]
        waiting = [step for step in new if not _is_done(workdir, step, which, asked)]
        # -1: nothing to do now.
        step = _of_process_0(min(waiting, default=-1))
        if step >= 0:
            seen.add(step)
            yield step
            continue
        newest = _of_process_0(max(checkpoint.steps(workdir), default=0))
        if not which.watch or newest >= config.training.num_steps:
            return
        time.sleep(which.poll_seconds)


def _of_process_0(value: int) -> int:
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def _wait(ready: Callable[[], bool], which: Which, said: str) -> None:
    told = False
    while not _of_process_0(int(ready())):
        if not told:
            log(f"{said}; looking every {which.poll_seconds:g} s")
        told = True
        time.sleep(which.poll_seconds)


def _write(
    workdir: Path, step: int, scores: dict[str, Any], which: Which, asked: dict[str, Any]
) -> None:
    """The scores of a step whose answers are in its folder."""
    folder = folder_of(workdir, step, use_ema=which.use_ema, label=which.label)
    _write_board(workdir, step, scores, which)
    tree = {"step": step, "ema": which.use_ema, "scores": scores, "settings": asked}
    # Last: it says that the rest is there.
    _write_json(folder / SCORES_FILE, tree)
    newest = folder.parent / SCORES_FILE
    if not newest.is_file() or json.loads(newest.read_text("utf-8"))["step"] <= step:
        _write_json(newest, tree)


def _write_answers(folder: Path, results: list[TaskResult]) -> dict[str, Any]:
    """Pictures and a row an image; returns the scores."""
    for result in results:
        for kind in ("pictures", "best", "worst"):
            picture = Photo(grid(getattr(result, kind), zoom=3))
            write_photo(folder / f"{result.key.replace('/', '-')}-{kind}.png", picture)
    _write_images(folder / IMAGES_FILE, results)
    return summary(results)


def _write_board(workdir: Path, step: int, scores: dict[str, Any], which: Which) -> None:
    """One point a task and method in TensorBoard."""
    board = own_writer(workdir / "tensorboard" / "evaluation" / which.label, f"step-{step}")
    suffix = "" if which.use_ema else "_raw"
    for task, entry in scores.items():
        for kind in ("psnr_db", "stacked_psnr_db"):
            for method, mean in entry.get(kind, {}).items():
                board.add_scalar(f"{kind}{suffix}/{task}/{method}", mean["mean"], step)
    board.close()


def _write_images(path: Path, results: list[TaskResult]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(_COLUMNS)
        for result in results:
            for index in range(len(result.psnr_db["model"])):
                values = (
                    *(column[index] for column in result.asked.values()),
                    *(_value(result.psnr_db, name, index) for name in METHODS),
                    *(_value(result.stacked_psnr_db, name, index) for name in METHODS),
                )
                cells = (f"{value:.4f}" for value in values)
                table.writerow((result.split, result.task, result.disparity, index, *cells))


def _value(scores: dict[str, np.ndarray], method: str, index: int) -> float:
    return float(scores[method][index]) if method in scores else math.nan


def read_images(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Columns of a step's folder by `SPLIT/TASK`, or `SPLIT/TASK/DISPARITY` where it is not clean.

    `blur` and `focus_change` say what was asked of every image; `METHOD` is its PSNR in dB, and
    `stacked_METHOD` that of the scene's blend; NaN where there was no answer.

    Raises:
        InvalidInput: the file is of another version.
    """
    found: dict[str, dict[str, list[float]]] = {}
    with (folder / IMAGES_FILE).open(encoding="utf-8", newline="") as file:
        table = csv.DictReader(file)
        rows = list(table)
    if tuple(table.fieldnames or ()) != _COLUMNS:
        raise InvalidInput(
            f"{folder / IMAGES_FILE} has other columns than this version writes; allowed: scores "
            "of this version, which `bokeh-jax eval` makes anew"
        )
    for row in rows:
        parts = [row["split"], row["task"], row["disparity"]]
        key = "/".join(parts[: 2 if row["disparity"] == "clean" else 3])
        columns = found.setdefault(key, {name: [] for name in _COLUMNS[4:]})
        for name in columns:
            columns[name].append(float(row[name]))
    return {
        key: {name: np.asarray(column) for name, column in columns.items()}
        for key, columns in found.items()
    }


def _write_json(path: Path, tree: Any) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def _print(step: int, results: list[TaskResult]) -> None:
    """One row a method: the names are longer than the numbers."""
    print(f"step {step}; PSNR in dB, mean ± 95 % interval")
    for result in results:
        told = "" if result.disparity == "clean" else f", disparity {result.disparity}"
        print(f"{result.task}, {result.split}{told} ({len(result.psnr_db['model'])} images)")
        for name in result.psnr_db:
            print(f"  {NAMES[name]:44}{result.mean(name)!s:>16}")
