"""`bokeh-jax bench quality`: a checkpoint's answers to a benchmark, scored beside the baselines.

Several processes share out the scenes, each with the network on its own first device; process 0
makes the table when all are done. Started again, what is done stays done.
"""

import argparse
import dataclasses
import gc
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from bokeh_jax.errors import InvalidInput
from bokeh_jax.evaluation.benchmark import BENCHMARK_FILE, load_benchmark, open_benchmark
from bokeh_jax.evaluation.benchmark_build import build_benchmark
from bokeh_jax.evaluation.benchmark_scenes import BenchmarkSettings
from bokeh_jax.evaluation.perceptual.registry import load_perceptual
from bokeh_jax.evaluation.quality import score_questions, summarise
from bokeh_jax.evaluation.quality_files import (
    append_scene,
    check_settings,
    finished_scenes,
    read_rows,
    rows_file,
    write_summary,
)
from bokeh_jax.evaluation.questions import Question
from bokeh_jax.evaluation.real_layouts import REAL_SETS
from bokeh_jax.evaluation.real_sets import find_questions, read_questions
from bokeh_jax.inference.refocuser import Refocuser
from bokeh_jax.memory import mapped_share
from bokeh_jax.training.log import log
from data_pipeline.layered.textures import load_textures

SHOWN_METRICS = (
    *("psnr_db", "ssim", "psnr_db/focus", "psnr_db/background", "psnr_db/occlusion"),
    *("blur_error_px", "sharpest_plane_error_px", "lvcorr_rank", "stacking_rms", "unchanged_mae"),
    "lpips_vgg",
)


# Of the mappings that a process may have: a scene's programs take up to a tenth.
_MOST_MAPPED = 0.5


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is answered.

    Attributes:
        suite: folder of the benchmark, or KIND:FOLDER of real data.
        num_scenes: only the first so many; None for all.
        core: of the benchmark, only the third in which planes, levels and tasks occur equally.
        max_side_px: real pictures are made this small; None for as they are.
        blur: K / width to ask for where real data does not say.
        weights: folder of perceptual metrics' weights.
    """

    suite: str
    num_scenes: int | None = None
    core: bool = False
    max_side_px: int | None = None
    blur: float | None = None
    weights: Path | None = None

    def __post_init__(self):
        for name in ("num_scenes", "max_side_px"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidInput(f"{name} is {value}; allowed: 1 or more")

    @property
    def real(self) -> tuple[str, Path] | None:
        """(kind, folder) of real data."""
        kind, colon, folder = self.suite.partition(":")
        return (kind, Path(folder)) if colon and kind in REAL_SETS else None


def quality_from_arguments(arguments: argparse.Namespace) -> None:
    """Runs `bench quality`.

    Raises:
        InvalidInput: the benchmark or the checkpoint is not there, or the folder holds others.
    """
    asked = Asked(
        suite=arguments.suite,
        num_scenes=arguments.scenes,
        core=arguments.core,
        max_side_px=arguments.max_side,
        blur=arguments.blur,
        weights=arguments.weights,
    )
    refocuser = None
    if arguments.checkpoint is not None:
        refocuser = Refocuser.from_checkpoint(
            arguments.checkpoint, step=arguments.step, use_ema=not arguments.raw
        )
    if asked.real is None:
        _made_if_missing(Path(asked.suite))
    checkpoint = {
        "checkpoint": None if refocuser is None else str(arguments.checkpoint),
        "step": None if refocuser is None else refocuser.step,
        "ema": not arguments.raw,
    }
    run_quality(asked, refocuser, checkpoint, arguments.out)


def run_quality(
    asked: Asked, refocuser: Refocuser | None, checkpoint: dict[str, Any], out: Path
) -> None:
    """Answers and scores what is asked, prints the table, and leaves all of it in `out`."""
    perceptual = load_perceptual(asked.weights)
    settings = checkpoint | _identity(asked) | {"metrics_with_weights": _given(perceptual)}
    if jax.process_index() == 0:
        check_settings(out, settings)
    path = rows_file(out, jax.process_index())
    done = finished_scenes(path)
    own = (
        (scene, questions)
        for index, (scene, questions) in enumerate(_scenes(asked))
        if index % jax.process_count() == jax.process_index()
    )
    for scene, questions in own:
        if scene not in done:
            rows = score_questions(questions, refocuser, perceptual=perceptual, blur=asked.blur)
            append_scene(path, scene, list(rows))
            log(f"scene {scene} scored")
            make_room()
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("all scenes are scored")
    if jax.process_index() == 0:
        log(write_summary(out, settings, summarise(read_rows(out)), SHOWN_METRICS))
        log(f"every answer: {rows_file(out)}; means: {out / 'summary.json'}")


def make_room(most_mapped: float = _MOST_MAPPED) -> bool:
    """Gives up all compiled programs where they take much of what a process may map.

    Photographs of many sizes and blurs are many programs; each may be compiled again.
    """
    if mapped_share() <= most_mapped:
        return False
    jax.clear_caches()
    gc.collect()
    return True


def _given(perceptual: dict[str, Any]) -> list[str]:
    return [name for name, metric in perceptual.items() if metric is not None]


def _identity(asked: Asked) -> dict[str, Any]:
    """What makes two tables comparable."""
    tree = dataclasses.asdict(asked) | {"weights": None if asked.weights is None else "given"}
    if asked.real is None:
        tree["suite"] = f"refocus-bench {open_benchmark(asked.suite).fingerprint}"
    return tree


def _made_if_missing(folder: Path) -> None:
    if (folder / BENCHMARK_FILE).is_file() or jax.process_index():
        return
    if folder.exists() and any(folder.iterdir()):
        open_benchmark(folder)
    log(f"{folder} is not there: the benchmark is built")
    build_benchmark(
        BenchmarkSettings(),
        folder,
        load_textures(),
        on_scene=lambda done: log(f"{done} scenes built") if done % 10 == 0 else None,
    )


def _questions(asked: Asked) -> Iterator[Question]:
    if asked.real is None:
        yield from load_benchmark(asked.suite, core=asked.core)
        return
    kind, folder = asked.real
    yield from read_questions(
        find_questions(REAL_SETS, kind, folder), max_side_px=asked.max_side_px
    )


def _scenes(asked: Asked) -> Iterator[tuple[str, Iterator[Question]]]:
    """Scenes in their order, each with its questions; a scene's that is passed over are read."""
    grouped = itertools.groupby(_questions(asked), key=lambda question: question.scene)
    yield from itertools.islice(grouped, asked.num_scenes)
