"""What a person sees while a run goes on: a bar on a terminal, a line now and then elsewhere."""

import dataclasses
import sys
from collections.abc import Mapping

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

SHOWN = {
    "loss": "loss {:.4f}",
    "stacking_loss": "stack {:.4f}",
    "steps_per_second": "{:.2f} steps/s",
    "images_per_second": "{:.0f} images/s",
    "mfu_percent": "MFU {:.1f} %",
    "device_tflops_per_second": "{:.3g} TFLOP/s",
    "data_wait_percent": "data wait {:.1f} %",
}


def describe(values: Mapping[str, float]) -> str:
    """The values that a person watches, in one line; TFLOP/s where there is no MFU."""
    hidden = "device_tflops_per_second" if "mfu_percent" in values else None
    return "  ".join(
        form.format(values[name])
        for name, form in SHOWN.items()
        if name in values and name != hidden
    )


def seconds_text(seconds: float) -> str:
    """93 -> "1:33"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


@dataclasses.dataclass(frozen=True)
class ProgressReporter:
    """Use as a context manager; `update` takes the steps done and what to show."""

    total_steps: int
    progress: Progress | None
    task: TaskID
    visible: bool = True

    def __enter__(self) -> "ProgressReporter":
        if self.progress is not None:
            self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.progress is not None:
            self.progress.stop()

    def advance(self, step: int) -> None:
        """Moves the bar; says nothing where there is no terminal."""
        if self.progress is not None:
            self.progress.update(self.task, completed=step)

    def report(self, step: int, values: Mapping[str, float]) -> None:
        """Shows fresh values: in the bar, or as a log line with the time left."""
        if self.progress is not None:
            self.progress.update(self.task, completed=step, values=describe(values))
        if self.progress is not None or not self.visible:
            return
        left = (self.total_steps - step) / max(values["steps_per_second"], 1e-9)
        print(
            f"step {step}/{self.total_steps}  {describe(values)}  ETA {seconds_text(left)}",
            flush=True,
        )


def make_reporter(first_step: int, total_steps: int, *, visible: bool = True) -> ProgressReporter:
    """A bar where stdout is a terminal, log lines elsewhere; nothing where not `visible`."""
    if not (visible and sys.stdout.isatty()):
        return ProgressReporter(total_steps, None, TaskID(0), visible)
    progress = Progress(
        TextColumn("train"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[values]}"),
        console=Console(),
    )
    task = progress.add_task("train", total=total_steps, completed=first_step, values="compiling")
    return ProgressReporter(total_steps, progress, task)
