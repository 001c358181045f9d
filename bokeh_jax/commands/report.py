"""`bokeh-jax report`: from an evaluated run to one page."""

import json
from pathlib import Path

import numpy as np

from bokeh_jax import config as config_lib
from bokeh_jax.commands.evaluate import EVALUATION_FOLDER, SCORES_FILE, folder_of, read_images
from bokeh_jax.errors import InvalidInput
from bokeh_jax.evaluation.methods import BASELINES
from bokeh_jax.evaluation.metrics import mean_with_interval
from bokeh_jax.evaluation.report import ASKED, Page, Scores, label, verdict, write_report
from bokeh_jax.evaluation.report_parts import Picture, Point
from bokeh_jax.inference.photo_file import read_photo
from bokeh_jax.training import checkpoint
from bokeh_jax.training.writers import METRICS_FILE, read_metrics

# Methods in charts against what was asked, and points of a line.
_DRAWN = ("unchanged", "lens_blur_known_camera", "two_stage_known_camera", "model_known_camera")
_GROUPS = 6
KINDS = {"pictures": "the first", "best": "best", "worst": "worst"}


def _photo_picture(item: str) -> Picture:
    caption, equals, name = item.partition("=")
    if not equals:
        raise InvalidInput(f"--photo is {item!r}; allowed: CAPTION=FILE")
    return Picture(caption, read_photo(name).pixels)


def report_workdir(workdir: Path, photos: list[str], others: list[Path]) -> Path:
    """Writes `<workdir>/report.html` from scores, metrics and pictures, and returns its path.

    Args:
        workdir: of an evaluated run.
        photos: CAPTION=FILE; the first is what the others were made from.
        others: evaluated runs to compare with.

    Raises:
        InvalidInput: a run was not evaluated, or a photograph cannot be read.
    """
    evaluated = _evaluated(workdir)
    step, scores = evaluated["step"], evaluated["scores"]
    folder = folder_of(workdir, step, use_ema=evaluated["ema"])
    config = checkpoint.load_config(workdir, step)
    if config.task != "refocus":
        raise InvalidInput(
            f"{workdir} is a run with task={config.task!r}; allowed: 'refocus' (of 'focus', "
            f"`bokeh-jax eval` leaves table and pictures in {folder})"
        )
    lines = read_metrics(workdir / METRICS_FILE) if (workdir / METRICS_FILE).is_file() else []
    splits = sorted({key.split("/")[0] for key in scores if key.count("/") == 1}, reverse=True)
    pictures = [_photo_picture(item) for item in photos]
    page = Page(
        title=f"bokeh_jax: {config.name}, {step} steps",
        summary_lines=[verdict(scores, split, model) for split in splits for model in BASELINES]
        + _scope(config),
        scores=scores,
        metric_lines=lines,
        history=_history(workdir, evaluated),
        against={key: _against(columns) for key, columns in read_images(folder).items()},
        comparisons={str(other): _gains(workdir, other) for other in others},
        task_pictures=[
            Picture(f"{label(key)} textures: {name}", read_photo(file).pixels, pixels=True)
            for kind, name in KINDS.items()
            for key in scores
            if (file := folder / f"{key.replace('/', '-')}-{kind}.png").is_file()
        ],
        sliders=[
            (pictures[0], picture)
            for picture in pictures[1:]
            if picture.image.shape == pictures[0].image.shape
        ],
        photo_pictures=pictures,
    )
    write_report(workdir / "report.html", page)
    return workdir / "report.html"


def _against(columns: dict[str, np.ndarray]) -> dict[str, dict[str, list[Point]]]:
    """Mean PSNR of groups of as many images, ordered by what was asked."""
    charts = {}
    for asked in ASKED:
        order = np.argsort(columns[asked])
        if np.ptp(columns[asked]) == 0.0:
            continue
        groups = np.array_split(order, min(_GROUPS, len(order)))
        charts[asked] = {
            name: [
                (float(columns[asked][group].mean()), float(columns[name][group].mean()))
                for group in groups
            ]
            for name in _DRAWN
            if np.isfinite(columns[name]).all()
        }
    return charts


def _evaluated(workdir: Path) -> Scores:
    path = workdir / EVALUATION_FOLDER / SCORES_FILE
    if not path.is_file():
        raise InvalidInput(
            f"workdir {workdir} holds no {EVALUATION_FOLDER}/{SCORES_FILE}; allowed: a run on "
            "which `bokeh-jax eval` has run"
        )
    return json.loads(path.read_text(encoding="utf-8"))


def _history(workdir: Path, newest: Scores) -> dict[int, Scores]:
    """Scores of all steps that met the same questions."""
    found = {}
    for path in (workdir / EVALUATION_FOLDER).glob(f"step_*/{SCORES_FILE}"):
        tree = json.loads(path.read_text(encoding="utf-8"))
        if tree["settings"] == newest["settings"] and tree["ema"] == newest["ema"]:
            found[tree["step"]] = tree["scores"]
    return found


def _gains(workdir: Path, other: Path) -> dict[str, Scores]:
    """Means of this run's PSNR minus another's, where both met the same questions."""
    ours, theirs = _evaluated(workdir), _evaluated(other)
    if any(
        ours["settings"][name] != theirs["settings"].get(name)
        for name in ("evaluation", "dataset", "simulation")
    ):
        return {}
    images, others = (
        read_images(folder_of(run, tree["step"], use_ema=tree["ema"]))
        for run, tree in ((workdir, ours), (other, theirs))
    )

    def gain(key: str, model: str) -> Scores:
        difference: np.ndarray = images[key][model] - others[key][model]
        return vars(mean_with_interval(difference))

    return {
        key: {model: gain(key, model) for model in BASELINES if np.isfinite(columns[model]).all()}
        for key, columns in images.items()
        if key in others
    }


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
