"""From device values of many steps to numbers a person reads."""

import dataclasses
import time
from collections.abc import Callable

import jax
from clu import metrics as clu_metrics

from bokeh_jax.training import progress, writers
from bokeh_jax.training.step import compute_metrics, merge_metrics


@dataclasses.dataclass(frozen=True)
class Window:
    """What happened since the last report. Holds device values: making one never waits."""

    metrics: clu_metrics.Collection | None = None
    steps: int = 0
    data_wait_seconds: float = 0.0

    def with_step(self, metrics: clu_metrics.Collection, waited_seconds: float) -> "Window":
        """The window with one more step in it."""
        merged = metrics if self.metrics is None else merge_metrics(self.metrics, metrics)
        return Window(merged, self.steps + 1, self.data_wait_seconds + waited_seconds)


@dataclasses.dataclass
class Reporter:
    """Turns a window into numbers for the writer and the screen; remembers when it last did."""

    writer: writers.MetricWriter | None
    screen: progress.ProgressReporter | None
    images_per_step: int
    replaced_rows: Callable[[], int] = lambda: 0
    last_report: float = dataclasses.field(default_factory=time.monotonic)

    def report(self, step: int, window: Window) -> None:
        """Reads the window (waits for its last step) and passes the values on."""
        assert window.metrics is not None
        values = jax.device_get(compute_metrics(window.metrics))
        now = time.monotonic()
        seconds, self.last_report = now - self.last_report, now
        numbers = {name: float(value) for name, value in values.items()} | {
            "steps_per_second": window.steps / seconds,
            "images_per_second": window.steps * self.images_per_step / seconds,
            "data_wait_percent": 100.0 * window.data_wait_seconds / seconds,
            # Of this process, since it started: rows whose record could not be read.
            "replaced_rows": float(self.replaced_rows()),
        }
        if self.writer is not None:
            self.writer.scalars(step, numbers)
        if self.screen is not None:
            self.screen.report(step, numbers)
