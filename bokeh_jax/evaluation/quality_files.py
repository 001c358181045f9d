"""What a run of a benchmark leaves in its folder, and how an interrupted one goes on.

    settings.json    what was asked: benchmark, checkpoint, metrics; scores of others are refused
    rows-0.csv       one row an answer or sweep, of process 0; whole scenes only
    summary.json     means with intervals
    table.md         the same to be read

A scene's rows are written at once, behind a line that ends it, so a killed run leaves whole scenes
and at most one that is cut short, which is dropped and answered again.
"""

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bokeh_jax.errors import InvalidInput
from bokeh_jax.evaluation.methods import NAMES
from bokeh_jax.evaluation.metrics import Mean
from bokeh_jax.evaluation.perceptual.registry import FILES, NO_WEIGHTS
from bokeh_jax.evaluation.quality import SWEEP_METRICS, Row
from bokeh_jax.evaluation.scores import ANSWER_METRICS, METRICS

SETTINGS_FILE = "settings.json"
_KEYS = ("subset", "task", "scene", "question", "method")
COLUMNS = (*ANSWER_METRICS, *SWEEP_METRICS, *FILES)
# Ends the rows of a scene: a row whose method is this.
_END = "-"


def check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Writes what is asked into a new folder, or makes sure that an old one was asked the same.

    Raises:
        InvalidInput: it holds scores of something else.
    """
    path = folder / SETTINGS_FILE
    wanted = json.loads(json.dumps(settings))
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        different = [name for name in wanted if found.get(name) != wanted[name]]
        if different:
            name = different[0]
            raise InvalidInput(
                f"folder {folder} holds scores with {name}={found.get(name)!r}; allowed: "
                f"{wanted[name]!r}, as asked, or another folder"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    _replace(path, json.dumps(wanted, indent=1) + "\n")


def rows_file(folder: Path, process: int = 0) -> Path:
    """Where a process writes its rows."""
    return folder / f"rows-{process}.csv"


def finished_scenes(path: Path) -> set[str]:
    """Scenes of which all rows are there; what follows the last of them is cut off."""
    if not path.is_file():
        return set()
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    ends = [index for index, line in enumerate(lines) if _is_end(line)]
    kept = lines[: ends[-1] + 1] if ends else []
    _replace(path, "".join(kept))
    return {next(csv.reader([lines[index]]))[2] for index in ends}


def _is_end(line: str) -> bool:
    return line.endswith("\n") and line.startswith(f"{_END},{_END},")


def append_scene(path: Path, scene: str, rows: Sequence[Row]) -> None:
    """Adds all rows of a scene."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    if not path.is_file() or not path.stat().st_size:
        table.writerow((*_KEYS, *COLUMNS))
    for row in rows:
        values = (row.scores.get(name, math.nan) for name in COLUMNS)
        cells = ("" if math.isnan(value) else f"{value:.6g}" for value in values)
        table.writerow((*(getattr(row, key) for key in _KEYS), *cells))
    table.writerow((_END, _END, scene))
    with path.open("a", encoding="utf-8") as file:
        file.write(text.getvalue())


def read_rows(folder: Path) -> Iterator[Row]:
    """Rows of all processes."""
    for path in sorted(folder.glob("rows-*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            for found in csv.DictReader(file):
                if found["subset"] == _END or found["subset"] == "subset":
                    continue
                scores = {name: float(found[name]) for name in COLUMNS if found[name]}
                yield Row(**{key: found[key] for key in _KEYS}, scores=scores)


def write_summary(
    folder: Path,
    settings: Mapping[str, Any],
    table: Mapping[str, Mapping[str, Mapping[str, Mean]]],
    metrics: Sequence[str],
) -> str:
    """Writes summary.json and table.md, and returns the latter's text."""
    means = {
        where: {
            method: {name: vars(mean) for name, mean in found.items()}
            for method, found in methods.items()
        }
        for where, methods in table.items()
    }
    tree = {"settings": settings, "means": means}
    _replace(folder / "summary.json", json.dumps(tree, indent=1) + "\n")
    text = "\n".join(markdown(table, metrics))
    _replace(folder / "table.md", text + "\n")
    return text


def markdown(
    table: Mapping[str, Mapping[str, Mapping[str, Mean]]], metrics: Sequence[str]
) -> Iterable[str]:
    """Lines of a table for each subset and task; '-' is not measured."""
    for where, methods in table.items():
        yield f"### {where}\n"
        yield "| method | " + " | ".join(map(_title, metrics)) + " |"
        yield "|---" * (len(metrics) + 1) + "|"
        for method in NAMES:
            if method in methods:
                cells = (_cell(name, methods[method]) for name in metrics)
                yield f"| {NAMES[method]} | " + " | ".join(cells) + " |"
        yield ""


def _title(metric: str) -> str:
    """Of a metric, or of one over a region."""
    name, _, region = metric.partition("/")
    return f"{METRICS[name].title}{f', {region}' if region else ''}"


def _cell(metric: str, found: Mapping[str, Mean]) -> str:
    if metric in found:
        mean = found[metric]
        digits = 2 if metric.startswith("psnr_db") else 3
        return f"{mean.mean:.{digits}f} [{mean.low:.{digits}f}, {mean.high:.{digits}f}]"
    return NO_WEIGHTS if metric in FILES else "-"


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
