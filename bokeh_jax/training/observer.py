"""What watches a run, in one place: meter, profiler, record of goodput, durations of saves."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from bokeh_jax.chips import chip_named
from bokeh_jax.config import ExperimentConfig
from bokeh_jax.training import profiling
from bokeh_jax.training.accounting import Machine, Meter, batch_flops
from bokeh_jax.training.background_saves import background_saves
from bokeh_jax.training.goodput import GOODPUT_FILE, GoodputRecord
from bokeh_jax.training.log import log
from bokeh_jax.training.profiling import Profiler, StepRange
from bokeh_jax.training.progress import ProgressReporter
from bokeh_jax.training.reporting import Reporter
from bokeh_jax.training.writers import MetricWriter


@dataclasses.dataclass
class Observer:
    """Follows a process from its start to its end. Process 0 keeps the run's record.

    Attributes:
        config: of the run.
        workdir: of the run.
        started: when this process began, seconds since 1970.
        profiler: begins and ends traces.
        saves_ended: seconds of the saves that ended since the last call, or None.
        meter: of the loop.
        compile_seconds: spent on compiling the step.
    """

    config: ExperimentConfig
    workdir: Path
    started: float
    profiler: Profiler
    saves_ended: Callable[[], float | None]
    meter: Meter
    compile_seconds: float = 0.0
    _goodput: GoodputRecord | None = None

    def starts(self) -> None:
        """There are steps to make: the record is opened."""
        if jax.process_index() == 0:
            self._goodput = GoodputRecord(self.workdir / GOODPUT_FILE, self.started)

    @contextlib.contextmanager
    def compiling(self) -> Iterator[None]:
        """Takes the time inside as spent on compiling."""
        began = time.monotonic()
        yield
        self.compile_seconds += time.monotonic() - began

    def loop_begins(self, step: int) -> None:
        """The next step is the one after `step` updates, be it after a start or going back."""
        self.meter.close_interval()
        if self._goodput is not None:
            self._goodput.loop_begins(step, compile_seconds=self.compile_seconds)
        self.compile_seconds = 0.0

    def reporter(
        self,
        writer: MetricWriter | None,
        screen: ProgressReporter | None,
        replaced_rows: Callable[[], int],
    ) -> Reporter:
        """A reporter that closes the meter's intervals and keeps the record."""
        scenes = self.config.training.global_batch_size
        targets = 1 if self.config.task == "focus" else self.config.simulation.cameras.num_targets
        return Reporter(
            writer=writer,
            screen=screen,
            meter=self.meter,
            global_batch_size=scenes,
            images_per_step=scenes * targets,
            machine=Machine(jax.device_count(), chip_named(jax.devices()[0].device_kind)),
            goodput=self._goodput,
            background_saves=self.saves_ended,
            replaced_rows=replaced_rows,
        )

    def loop_ends(self, step: int) -> None:
        """The loop was left after `step` updates, and their state is handed to a save."""
        if self._goodput is not None:
            self._goodput.steps_done(step, self.meter.close_interval().spent)

    def ends(self, step: int) -> None:
        """All is saved and closed: says where the run's time went."""
        if self._goodput is not None:
            self._goodput.ends(step)
            log(self._goodput.summary())


@contextlib.contextmanager
def observe(
    config: ExperimentConfig, workdir: Path, profile_steps: StepRange | None, *, started: float
) -> Iterator[Observer]:
    """An observer of a run in this process, which began at `started` (seconds since 1970)."""
    with (
        profiling.profiler(workdir, profile_steps) as profiler,
        background_saves() as saves_ended,
    ):
        meter = Meter(batch_flops(config))
        yield Observer(config, workdir, started, profiler, saves_ended, meter)
