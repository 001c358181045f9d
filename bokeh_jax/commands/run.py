"""`bokeh-jax eval` and `bokeh-jax report`: from a run's checkpoint to numbers and a page."""

import json
from pathlib import Path

from bokeh_jax import config as config_lib
from bokeh_jax.errors import InvalidInput
from bokeh_jax.evaluation.report import Picture, split_name, verdict, write_report
from bokeh_jax.evaluation.suite import BASELINES, METHODS, evaluate, summary
from bokeh_jax.inference.photo_file import Photo, read_photo, write_photo
from bokeh_jax.training import checkpoint
from bokeh_jax.training.frozen import load_network
from bokeh_jax.training.panels import grid
from bokeh_jax.training.writers import METRICS_FILE, read_metrics

EVALUATION_FOLDER = "evaluation"
SCORES_FILE = "scores.json"


def evaluate_workdir(
    workdir: Path, *, step: int | None, use_ema: bool, overrides: list[str]
) -> None:
    """Scores a checkpoint: a table on stdout, scores and pictures in the run's folder."""
    step = checkpoint.existing_step(workdir, step)
    config = checkpoint.load_config(workdir, step)
    config = config_lib.resolve(json.loads(config_lib.to_json(config)), overrides)
    results = evaluate(config, load_network(config, workdir, step, use_ema=use_ema))
    folder = workdir / EVALUATION_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for result in results:
        picture = grid(result.pictures, zoom=3)
        write_photo(folder / f"{result.split}-{result.task}.png", Photo(picture))
    scores = {"step": step, "ema": use_ema, "scores": summary(results)}
    temporary = folder / f".{SCORES_FILE}.tmp"
    temporary.write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
    temporary.replace(folder / SCORES_FILE)
    print(f"step {step}; PSNR in dB, mean ± 95 % interval")
    titles = ("unchanged", "lens blur", "missing blur", "model", "model + camera")
    print(f"{'task':26}" + "".join(f"{title:>16}" for title in titles))
    for result in results:
        cells = "".join(f"{result.mean(name)!s:>16}" for name in METHODS)
        print(f"{result.task + ', ' + result.split:26}{cells}")


def _photo_picture(item: str) -> Picture:
    caption, equals, name = item.partition("=")
    if not equals:
        raise InvalidInput(f"--photo is {item!r}; allowed: CAPTION=FILE")
    return Picture(caption, read_photo(name).pixels)


def report_workdir(workdir: Path, photos: list[str]) -> Path:
    """Writes `<workdir>/report.html` from scores, metrics and pictures, and returns its path.

    Raises:
        InvalidInput: the run was not evaluated, or a photograph cannot be read.
    """
    folder = workdir / EVALUATION_FOLDER
    if not (folder / SCORES_FILE).is_file():
        raise InvalidInput(
            f"workdir {workdir} holds no {EVALUATION_FOLDER}/{SCORES_FILE}; allowed: a run on "
            "which `bokeh-jax eval` has run"
        )
    evaluated = json.loads((folder / SCORES_FILE).read_text(encoding="utf-8"))
    scores = evaluated["scores"]
    config = checkpoint.load_config(workdir, evaluated["step"])
    lines = read_metrics(workdir / METRICS_FILE) if (workdir / METRICS_FILE).is_file() else []
    splits = sorted({key.split("/")[0] for key in scores}, reverse=True)
    pictures = [
        Picture(f"{task}, {split_name(split)} textures", read_photo(file).pixels, pixels=True)
        for file in sorted(folder.glob("*.png"))
        for split, task in [file.stem.split("-")]
    ]
    write_report(
        workdir / "report.html",
        title=f"bokeh_jax: {config.name}, {evaluated['step']} steps",
        summary_lines=[verdict(scores, split, model) for split in splits for model in BASELINES]
        + _scope(config),
        scores=scores,
        metric_lines=lines,
        task_pictures=pictures,
        photo_pictures=[_photo_picture(item) for item in photos],
    )
    return workdir / "report.html"


def _scope(config: config_lib.ExperimentConfig) -> list[str]:
    """What a run of this size can and cannot show, in words, from its own config."""
    images = config.training.num_steps * config.training.global_batch_size
    size = config.simulation.size_px
    return [
        f"The run saw {images:,} simulated scenes at {size}×{size} pixels. That is enough to learn "
        "to use the lens blur's answer and to mend a little of what it cannot know; it is "
        "far too little to restore fine detail, and the network has seen nothing larger than its "
        "frame. Photographs keep their resolution through the lens blur; what the network adds to "
        "them comes at about its training size.",
        f"A longer run: <code>bokeh-jax train --config=configs/{config.name}.py "
        "--workdir=runs/longer "
        f"--config.training.num_steps={20 * config.training.num_steps}</code>.",
    ]
