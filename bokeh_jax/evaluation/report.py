"""The report of a run: one HTML file with table, curves and pictures, no network needed to read it.

It says only what the numbers in the run's folder say; the sentences about who is ahead are computed
from the image-by-image differences and their intervals.
"""

import base64
import dataclasses
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from bokeh_jax.evaluation.metrics import Mean
from bokeh_jax.evaluation.suite import METHODS

NAMES = {
    "unchanged": "input unchanged",
    "lens_blur": "lens blur, as if all in focus",
    "lens_blur_known_camera": "lens blur, missing blur only",
    "model": "model",
    "model_known_camera": "model, told the reference’s camera",
}
Point = tuple[int | float, int | float]
TASK_NAMES = {"refocus": "refocus", "add_bokeh": "add bokeh", "deblur": "deblur"}
_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.35rem .8rem;
border-bottom:1px solid #ddd;text-align:right}td:first-child,
th:first-child{text-align:left}figure{margin:1rem 0}
figcaption{color:#555;font-size:.9rem}img{max-width:100%;image-rendering:auto}
img.pixels{image-rendering:pixelated}code{background:#f3f3f3;padding:.1rem .3rem}
.best{font-weight:700}svg{background:#fafafa}.row{display:flex;gap:1rem;flex-wrap:wrap}
"""


@dataclasses.dataclass(frozen=True)
class Picture:
    """A captioned picture.

    Attributes:
        caption: what it shows.
        image: sRGB [0, 1], [h, w, 3].
        pixels: enlarge without smoothing.
    """

    caption: str
    image: Float[np.ndarray, "h w 3"]
    pixels: bool = False


def _data_uri(image: Float[np.ndarray, "h w 3"]) -> str:
    buffer = io.BytesIO()
    levels = np.clip(np.rint(image * 255.0), 0, 255).astype(np.uint8)
    Image.fromarray(levels).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _figure(picture: Picture) -> str:
    kind = ' class="pixels"' if picture.pixels else ""
    caption = html.escape(picture.caption)
    return (
        f'<figure><img{kind} src="{_data_uri(picture.image)}" alt="{caption}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def line_chart(
    title: str, series: Mapping[str, Sequence[Point]], *, size: tuple[int, int] = (460, 240)
) -> str:
    """A chart as inline SVG: name -> points (x, y)."""
    width, height = size
    left, bottom, top, right = 58, 34, 30, 12
    points = [point for line in series.values() for point in line]
    if not points:
        return f"<p>{html.escape(title)}: no values yet.</p>"
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x0, x1, y0, y1 = min(xs), max(xs), min(ys), max(ys)
    x1, y1 = (x1 if x1 > x0 else x0 + 1), (y1 if y1 > y0 else y0 + 1e-9)

    def place(x: int | float, y: int | float) -> str:
        across = left + (x - x0) / (x1 - x0) * (width - left - right)
        down = height - bottom - (y - y0) / (y1 - y0) * (height - top - bottom)
        return f"{across:.1f},{down:.1f}"

    parts = [f'<svg width="{width}" height="{height}" font-family="sans-serif" font-size="11">']
    parts.append(f'<text x="{left}" y="16" font-size="13">{html.escape(title)}</text>')
    for fraction in (0.0, 0.5, 1.0):
        x, y = x0 + fraction * (x1 - x0), y0 + fraction * (y1 - y0)
        down = float(place(x0, y).split(",")[1])
        across = float(place(x, y0).split(",")[0])
        parts.append(f'<path d="M{left},{down}H{width - right}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6}" y="{down + 4}" text-anchor="end">{y:.3g}</text>')
        anchor = "end" if fraction == 1.0 else "middle"
        parts.append(f'<text x="{across}" y="{height - 14}" text-anchor="{anchor}">{x:g}</text>')
    colors = ("#0b62a4", "#c44e00", "#2b8a3e", "#7a3db8")
    for index, (name, line) in enumerate(series.items()):
        path = " ".join(place(x, y) for x, y in line)
        color = colors[index % len(colors)]
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.6"/>')
        place_text = f'x="{width - right}" y="{top + 13 * index}" text-anchor="end"'
        parts.append(f'<text {place_text} fill="{color}">{html.escape(name)}</text>')
    return "".join(parts) + "</svg>"


def _mean(tree: Mapping[str, Any]) -> Mean:
    return Mean(**tree)


def split_name(split: str) -> str:
    """How a split is called in prose."""
    return {"eval_seen": "seen", "eval_heldout": "held-out"}.get(split, split)


def results_table(scores: Mapping[str, Any]) -> str:
    """HTML table of `suite.summary`: PSNR per task, split and method."""
    head = "".join(f"<th>{html.escape(NAMES[name])}</th>" for name in METHODS)
    rows = [f"<tr><th>task, scenes</th>{head}</tr>"]
    for key, entry in scores.items():
        split, task = key.split("/")
        means = {name: _mean(entry["psnr_db"][name]) for name in METHODS}
        best = max(means, key=lambda name: means[name].mean)
        cells = "".join(
            f"<td{' class=best' if name == best else ''}>{means[name]}</td>" for name in METHODS
        )
        label = f"{TASK_NAMES[task]}, {split_name(split)} textures ({entry['images']} images)"
        rows.append(f"<tr><td>{html.escape(label)}</td>{cells}</tr>")
    return "<table>" + "".join(rows) + "</table>"


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


def write_report(
    path: Path,
    *,
    title: str,
    summary_lines: Sequence[str],
    scores: Mapping[str, Any],
    metric_lines: Sequence[Mapping[str, Any]],
    task_pictures: Sequence[Picture],
    photo_pictures: Sequence[Picture],
) -> None:
    """Writes the report: beside `path` first, then renamed."""
    paragraphs = "".join(f"<p>{line}</p>" for line in summary_lines)
    photos = "".join(map(_figure, photo_pictures)) or "<p>No photograph was refocused yet.</p>"
    body = (
        f"<h1>{html.escape(title)}</h1>{paragraphs}"
        "<h2>Scores on scenes that training never saw</h2>"
        "<p>PSNR in dB, mean over images ± 95 % interval; bold is best. "
        "Disparity and the asked camera are given to lens blur and model alike; the reference's "
        "own camera to the columns that say so.</p>"
        f"{results_table(scores)}"
        f"<h2>Training</h2>{_curves(metric_lines)}"
        "<h2>Scenes</h2><p>From left to right: reference, lens blur as if all in focus, lens blur "
        "with the missing blur only, model, model told the reference's camera, truth.</p>"
        f"{''.join(map(_figure, task_pictures))}"
        f"<h2>A real photograph</h2>{photos}"
    )
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style>{body}</html>\n",
        encoding="utf-8",
    )
    temporary.replace(path)
