"""Where metrics go: TensorBoard for people, JSON lines for programs.

One process writes. Scalars arrive as Python floats, long after the device computed them.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from bokeh_jax.training.board import SummaryWriter, own_writer

METRICS_FILE = "metrics.jsonl"


@dataclasses.dataclass(frozen=True)
class MetricWriter:
    """Appends to `<workdir>/metrics.jsonl` and to TensorBoard event files beside it."""

    path: Path
    board: SummaryWriter

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One JSON line and one TensorBoard point a value."""
        for name, value in values.items():
            self.board.add_scalar(name, value, step)
        line = {"step": step} | {
            name: value if math.isfinite(value) else None for name, value in values.items()
        }
        append_line(self.path, line)

    def image(self, step: int, name: str, image: Float[np.ndarray, "h w 3"]) -> None:
        """An sRGB-encoded image in [0, 1]."""
        self.board.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """Writes out what TensorBoard still buffers."""
        self.board.close()


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Adds one JSON line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def trimmed_lines(
    path: Path, keep: Callable[[dict[str, Any]], bool] = lambda line: True
) -> list[dict[str, Any]]:
    """Lines of a file that is to be appended to; those not to keep, and one that a kill has cut
    short, are taken out of it. A file that is missing has none."""
    if not path.exists():
        return []
    kept = [line for line in read_metrics(path) if keep(line)]
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
    temporary.replace(path)
    return kept


def open_writer(workdir: Path, first_step: int) -> MetricWriter:
    """Opens the run's writer. Lines from `first_step` on are of a past that a resumed run repeats
    and are dropped, so every step stands once."""
    path = workdir / METRICS_FILE
    trimmed_lines(path, lambda line: line["step"] <= first_step)
    purged = first_step + 1
    board = own_writer(workdir / "tensorboard", f"from-{purged}", purge_step=purged)
    return MetricWriter(path=path, board=board)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Lines of a file of JSON lines; a last line cut short by a kill is left out."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines
