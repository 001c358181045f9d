"""The report of a run: one HTML file with table, curves and pictures, no network needed to read it.

It says only what the numbers in the run's folder say; the sentences about who is ahead are computed
from the image-by-image differences and their intervals.
"""

import dataclasses
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bokeh_jax.evaluation.methods import BASELINES, METHODS, NAMES
from bokeh_jax.evaluation.metrics import Mean
from bokeh_jax.evaluation.report_parts import Picture, Point, figure, line_chart, slider

Scores = Mapping[str, Any]
TASK_NAMES = {"refocus": "refocus", "add_bokeh": "add bokeh", "deblur": "deblur"}
ASKED = {"blur": "blur K / width", "focus_change": "change of focus, in disparity"}
_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.35rem .8rem;
border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}td:first-child,
th:first-child{text-align:left;white-space:normal}figure{margin:1rem 0}
figcaption{color:#555;font-size:.9rem}img{max-width:100%;image-rendering:auto}
img.pixels{image-rendering:pixelated}code{background:#f3f3f3;padding:.1rem .3rem}
.slider{position:relative;--at:50%}.slider img{position:absolute;inset:0;width:100%;height:100%}
.slider .after{clip-path:inset(0 0 0 var(--at))}.slider input{position:absolute;inset:0;width:100%;
height:100%;margin:0;opacity:0;cursor:ew-resize}.slider::after{content:"";position:absolute;top:0;
bottom:0;left:var(--at);border-left:2px solid #fff;pointer-events:none}
.slider figcaption{position:absolute;top:100%}.sliders figure{margin-bottom:3rem}
.best{font-weight:700}svg{background:#fafafa}.row{display:flex;gap:1rem;flex-wrap:wrap}
"""


@dataclasses.dataclass(frozen=True)
class Page:
    """What a report shows.

    Attributes:
        title: of the page.
        summary_lines: HTML paragraphs.
        scores: of the newest evaluated step, as `suite.summary` makes them.
        metric_lines: lines of the run's metrics.jsonl.
        history: scores by step.
        against: key of the scores -> what was asked (`blur`, `focus_change`) -> method -> (what was
            asked, PSNR) of groups of images.
        comparisons: name of another run -> gains of this one over it (`compare`).
        task_pictures: rows of scenes.
        sliders: pairs of pictures of one size.
        photo_pictures: a photograph and what the run made of it.
    """

    title: str
    summary_lines: Sequence[str]
    scores: Scores
    metric_lines: Sequence[Mapping[str, Any]] = ()
    history: Mapping[int, Scores] = dataclasses.field(default_factory=dict)
    against: Mapping[str, Mapping[str, Mapping[str, Sequence[Point]]]] = dataclasses.field(
        default_factory=dict
    )
    comparisons: Mapping[str, Scores] = dataclasses.field(default_factory=dict)
    task_pictures: Sequence[Picture] = ()
    sliders: Sequence[tuple[Picture, Picture]] = ()
    photo_pictures: Sequence[Picture] = ()


def _mean(tree: Mapping[str, Any]) -> Mean:
    return Mean(**tree)


def label(key: str) -> str:
    """How the questions of a key (`TaskResult.key`) are called in prose."""
    split, task, *damage = key.split("/")
    told = f", disparity {damage[0]}" if damage else ""
    return f"{TASK_NAMES[task]}, {split_name(split)}{told}"


def split_name(split: str) -> str:
    """How a split is called in prose."""
    return {"eval_seen": "seen", "eval_heldout": "held-out"}.get(split, split)


def results_table(scores: Scores) -> str:
    """HTML table of `suite.summary`: PSNR of every method, a column a task and split."""
    head = "".join(
        f"<th>{html.escape(label(key))}<br>{entry['images']} images</th>"
        for key, entry in scores.items()
    )
    means = {
        key: {name: _mean(mean) for name, mean in entry["psnr_db"].items()}
        for key, entry in scores.items()
    }
    best = {key: max(found, key=lambda name: found[name].mean) for key, found in means.items()}
    rows = [f"<tr><th>textures</th>{head}</tr>"]
    for name in METHODS:
        cells = "".join(
            f"<td{' class=best' if name == best[key] else ''}>{found.get(name, '–')}</td>"
            for key, found in means.items()
        )
        rows.append(f"<tr><td>{html.escape(NAMES[name])}</td>{cells}</tr>")
    return "<table>" + "".join(rows) + "</table>"


def _comparisons(page: Page) -> str:
    """Gains over other runs, or nothing."""
    if not page.comparisons:
        return ""
    columns = list(page.scores)
    head = "".join(f"<th>{html.escape(label(key))}</th>" for key in columns)
    rows = [f"<tr><th>this run minus</th>{head}</tr>"]
    for other, gains in page.comparisons.items():
        for model in BASELINES:
            cells = "".join(f"<td>{_gain(gains.get(key), model)}</td>" for key in columns)
            name = html.escape(f"{other}: {NAMES[model]}")
            rows.append(f"<tr><td>{name}</td>{cells}</tr>")
    return (
        "<h2>Other runs</h2><p>Difference in dB on the same questions, image by image.</p>"
        f"<table>{''.join(rows)}</table>"
    )


def _gain(gains: Mapping[str, Any] | None, model: str) -> str:
    if gains is None:
        return "other questions"
    return str(_mean(gains[model])) if model in gains else "–"


def _progress(history: Mapping[int, Scores]) -> str:
    """PSNR against steps, where several steps were evaluated."""
    if len(history) < 2:
        return ""
    shown = ("model", "model_known_camera", "lens_blur", "lens_blur_known_camera")
    charts = []
    for key, entry in next(iter(history.values())).items():
        series: dict[str, list[Point]] = {
            NAMES[name]: [
                (step, scores[key]["psnr_db"][name]["mean"])
                for step, scores in sorted(history.items())
                if key in scores
            ]
            for name in shown
            if name in entry["psnr_db"]
        }
        charts.append(line_chart(f"PSNR in dB by step: {label(key)}", series))
    return f'<h2>Evaluated steps</h2><div class="row">{"".join(charts)}</div>'


def _against(page: Page) -> str:
    """PSNR against what was asked, a chart a task."""
    charts = [
        line_chart(
            f"PSNR in dB by {ASKED[asked]}: {label(key)}",
            {NAMES[name]: points for name, points in series.items()},
        )
        for key, charts in page.against.items()
        for asked, series in charts.items()
    ]
    if not charts:
        return ""
    return f'<h2>Against blur and focus</h2><div class="row">{"".join(charts)}</div>'


def verdict(scores: Mapping[str, Any], split: str, model: str) -> str:
    """One sentence on refocusing in a split: ahead, behind, or not told apart, of each baseline."""
    parts = []
    for name, tree in scores[f"{split}/refocus"]["gain_db"][model].items():
        gain = _mean(tree)
        if gain.mean > gain.half_width:
            word = "ahead of"
        elif gain.mean < -gain.half_width:
            word = "behind"
        else:
            word = "not told apart from"
        parts.append(f"{word} “{NAMES[name]}” ({gain.mean:+.2f} ± {gain.half_width:.2f} dB)")
    where = f"Refocusing on {split_name(split)} textures"
    return f"{where}, “{NAMES[model]}” is " + ", ".join(parts) + "."


def _curves(lines: Sequence[Mapping[str, Any]]) -> str:
    def points(name: str) -> list[Point]:
        return [(line["step"], line[name]) for line in lines if line.get(name) is not None]

    charts = [
        line_chart("loss", {"flow": points("flow_loss"), "stacking": points("stacking_loss")}),
        line_chart(
            "training PSNR, dB (one step, random time)",
            {"model": points("sample_psnr_db"), "guess shown to it": points("guess_psnr_db")},
        ),
        line_chart("images per second", {"images/s": points("images_per_second")}),
        line_chart("gradient norm", {"norm": points("gradient_norm")}),
    ]
    return '<div class="row">' + "".join(charts) + "</div>"


def write_report(path: Path, page: Page) -> None:
    """Writes the report: beside `path` first, then renamed."""
    paragraphs = "".join(f"<p>{line}</p>" for line in page.summary_lines)
    photos = "".join(map(figure, page.photo_pictures)) or "<p>No photograph was refocused yet.</p>"
    sliders = "".join(slider(*pair) for pair in page.sliders)
    if sliders:
        sliders = f'<h2>Before and after</h2><div class="row sliders">{sliders}</div>'
    title, shown = html.escape(page.title), html.escape(", ".join(NAMES.values()))
    body = (
        f"<h1>{title}</h1>{paragraphs}"
        "<h2>Scores on scenes that training never saw</h2>"
        "<p>PSNR in dB, mean over images ± 95 % interval; bold is best. "
        "Disparity and the asked camera are given to all; the reference's own camera to the rows "
        "that say so.</p>"
        f"{results_table(page.scores)}{_comparisons(page)}{_progress(page.history)}"
        f"{_against(page)}"
        f"<h2>Training</h2>{_curves(page.metric_lines)}"
        f"{sliders}"
        f"<h2>Scenes</h2><p>From left to right: {shown}, truth.</p>"
        f"{''.join(map(figure, page.task_pictures))}"
        f"<h2>A real photograph</h2>{photos}"
    )
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style>{body}</html>\n",
        encoding="utf-8",
    )
    temporary.replace(path)
