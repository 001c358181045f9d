"""`bokeh-jax bench apertures`: what aperture and focus do to generated scenes, measured."""

import argparse
import csv
import dataclasses
import io
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from bokeh_jax.errors import InvalidInput
from bokeh_jax.evaluation.aperture_control import (
    ApertureScores,
    score_apertures,
    score_whole,
)
from bokeh_jax.evaluation.metrics import Mean
from bokeh_jax.evaluation.sharpness import sharpest_plane_error_px
from bokeh_jax.evaluation.statistics import bootstrap_mean
from bokeh_jax.inference.generator import Camera, FocusFound, GeneratedScene, Generator
from bokeh_jax.inference.token_camera import TokenCamera
from bokeh_jax.training.log import log
from data_pipeline.dataset import open_split

FOCUS_ERROR = "focus_error_px"
# Before the names of the baseline's scores.
TOKENS = "tokens_"


def bench_apertures(arguments: argparse.Namespace) -> None:
    """Makes and photographs the scenes, prints and writes what was found.

    Raises:
        InvalidInput: a value of the command line, a checkpoint, dataset or file of prompts that
            cannot be used.
    """
    cameras = _cameras(arguments)
    if arguments.scenes < 1:
        raise InvalidInput(f"--scenes is {arguments.scenes}; allowed: 1 or more")
    generator = Generator.from_checkpoint(
        arguments.checkpoint, depth=arguments.depth_model, focus=arguments.focus_model
    )
    if generator.depth is None:
        raise InvalidInput(
            f"--depth-model is not given, and {arguments.checkpoint} has no depth network of its "
            "own; allowed: a run with task='depth', or a folder of Depth Anything"
        )
    told = None if arguments.tokens is None else TokenCamera.from_checkpoint(arguments.tokens)
    prompts = list(_prompts(arguments, generator))
    rows = []
    for seed, prompt in enumerate(prompts):
        scene = generator.scene(prompt, seed=seed)
        rows.append(_scores(scene, cameras, arguments.scale))
        if told is not None:
            rows[-1] |= _told_scores(told, prompt, cameras, seed)
        if (seed + 1) % 8 == 0:
            log(f"{seed + 1} of {len(prompts)} scenes")
    means = {name: _mean([row[name] for row in rows]) for name in rows[0]}
    _write(arguments.out, prompts, rows, means)
    for name, mean in means.items():
        print(f"{name}: {'nothing to measure' if mean is None else mean}")


def _cameras(arguments: argparse.Namespace) -> list[Camera]:
    """Narrowest first."""
    try:
        numbers = sorted({float(text) for text in arguments.f_numbers.split(",")}, reverse=True)
    except ValueError:
        numbers = []
    if len(numbers) < 2:
        raise InvalidInput(f"--f-numbers is {arguments.f_numbers!r}; allowed: two or more numbers")
    return [Camera(number, arguments.focal_length) for number in numbers]


def _prompts(arguments: argparse.Namespace, generator: Generator) -> Iterator[str]:
    if arguments.prompts is not None:
        try:
            lines = arguments.prompts.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise InvalidInput(
                f"--prompts {arguments.prompts} cannot be read ({error.strerror}); allowed: a text "
                "file"
            ) from None
        found = [line for line in lines if line.strip()]
        if not found:
            raise InvalidInput(
                f"--prompts {arguments.prompts} is empty; allowed: one or more lines"
            )
        yield from found[: arguments.scenes]
        return
    reader = open_split(Path(generator.config.data.path), arguments.split)
    for position in range(min(arguments.scenes, len(reader))):
        yield reader.values(position)["caption"].decode()


def _scores(
    scene: GeneratedScene, cameras: Sequence[Camera], scale_m: float | None
) -> dict[str, float]:
    """Of one scene: those of the sweep of apertures, and the focus error of the widest."""
    widest = cameras[-1]
    focus = None if scene.focus_model is not None else (0.5, 0.5)
    found = scene.find_focus(widest, focus, scale_m)
    taken = [scene.photograph(camera, found) for camera in cameras]
    assert scene.disparity is not None  # It was photographed.
    scores: ApertureScores = score_apertures(
        [one.image for one in taken], [one.lens for one in taken], scene.disparity
    )
    whole = score_whole([one.image for one in taken], [one.f_number for one in cameras])
    errors = []
    for share in (0.02, 0.5, 0.98):
        plane = FocusFound(float(np.quantile(scene.disparity, share)), found.scale_m)
        one = scene.photograph(widest, plane)
        errors.append(sharpest_plane_error_px(one.image, scene.image, scene.disparity, one.lens))
    known = [error for error in errors if math.isfinite(error)]
    error_px = float(np.mean(known)) if known else math.nan
    return dataclasses.asdict(scores) | dataclasses.asdict(whole) | {FOCUS_ERROR: error_px}


def _told_scores(
    told: TokenCamera, prompt: str, cameras: Sequence[Camera], seed: int
) -> dict[str, float]:
    """Scores of photographs by a network that is told of the camera, one seed for all."""
    taken = [told.photograph(prompt, camera, seed=seed) for camera in cameras]
    scores = score_whole(taken, [camera.f_number for camera in cameras])
    return {f"{TOKENS}{name}": value for name, value in dataclasses.asdict(scores).items()}


def _mean(values: Sequence[float]) -> Mean | None:
    array = np.array(values)
    return bootstrap_mean(array) if np.isfinite(array).any() else None


def _write(
    out: Path,
    prompts: Sequence[str],
    rows: Sequence[dict[str, float]],
    means: dict[str, Mean | None],
) -> None:
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(("prompt", *rows[0]))
    for prompt, row in zip(prompts, rows, strict=True):
        writer.writerow((prompt, *row.values()))
    plain = {
        name: None if mean is None else {"mean": mean.mean, "low": mean.low, "high": mean.high}
        for name, mean in means.items()
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "apertures.csv").write_text(table.getvalue(), encoding="utf-8")
        (out / "apertures.json").write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise InvalidInput(
            f"--out {out} cannot be written ({error.strerror}); allowed: a folder that this user "
            "may write"
        ) from None
