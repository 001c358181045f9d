"""From device values of many steps to numbers a person reads."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
from clu import metrics as clu_metrics

from bokeh_jax.training import memory_use, progress, writers
from bokeh_jax.training.accounting import Machine, Meter, step_rates
from bokeh_jax.training.goodput import GoodputRecord
from bokeh_jax.training.step_metrics import compute_metrics, merge_metrics


@dataclasses.dataclass(frozen=True)
class Window:
    """The steps since the last report. Holds device values: making one never waits.

    Attributes:
        metrics: of these steps, merged; None of no step.
        steps: how many.
        flops: of them all.
        values: what the metrics come to; None until the window is closed.
    """

    metrics: clu_metrics.Collection | None = None
    steps: int = 0
    flops: float = 0.0
    values: Mapping[str, jax.Array] | None = None

    def with_step(self, metrics: clu_metrics.Collection, flops: float = 0.0) -> "Window":
        """The window with one more step in it, of so many operations."""
        merged = metrics if self.metrics is None else merge_metrics(self.metrics, metrics)
        return Window(merged, self.steps + 1, self.flops + flops)

    def closed(self) -> "Window":
        """With its values, which are on their way to the host.

        To be called before another step is queued: the device works in the order of the queue, and
        values asked for later would come after that step.
        """
        assert self.metrics is not None
        values: Any = compute_metrics(self.metrics)
        for value in values.values():
            value.copy_to_host_async()
        return dataclasses.replace(self, values=values)


@dataclasses.dataclass(frozen=True)
class Reporter:
    """Turns a window into numbers for the writer and the screen.

    Attributes:
        writer: of this process; None where another one writes.
        screen: what a person sees; None likewise.
        meter: of the loop; every report closes its interval.
        global_batch_size: scenes of a step.
        images_per_step: network evaluations of a step.
        machine: the job's devices.
        goodput: the run's record; None where another process keeps it.
        background_saves: seconds of the saves that ended since the last call, or None.
        replaced_rows: of this process, since it started: rows whose record could not be read.
    """

    writer: writers.MetricWriter | None
    screen: progress.ProgressReporter | None
    meter: Meter
    global_batch_size: int
    images_per_step: int
    machine: Machine
    goodput: GoodputRecord | None = None
    background_saves: Callable[[], float | None] = lambda: None
    replaced_rows: Callable[[], int] = lambda: 0

    def report(self, step: int, window: Window) -> None:
        """Reads a closed window (waits for its last step) and passes the values on."""
        values = jax.device_get(window.values)
        interval = self.meter.close_interval()
        numbers = {name: float(value) for name, value in values.items()}
        numbers |= step_rates(
            interval,
            steps=window.steps,
            images_per_step=self.images_per_step,
            flops=window.flops,
            machine=self.machine,
        )
        numbers |= {
            "examples": float(step * self.global_batch_size),
            "replaced_rows": float(self.replaced_rows()),
        }
        stats = [device.memory_stats() for device in jax.local_devices()]
        numbers |= memory_use.device_memory_gib(stats) | memory_use.host_memory_gib()
        if (seconds := self.background_saves()) is not None:
            numbers["checkpoint_background_seconds"] = seconds
        if self.goodput is not None:
            self.goodput.steps_done(step, interval.spent)
            numbers["goodput_percent"] = self.goodput.goodput_percent
        if self.writer is not None:
            self.writer.scalars(step, numbers)
        if self.screen is not None:
            self.screen.report(step, numbers)
