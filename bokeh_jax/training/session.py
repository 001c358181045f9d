"""One call of the trainer between its compiled functions and its last save.

start ─ compile ─ [ loop ─ (a lost step: back to the newest checkpoint) ] ─ last save
"""

import contextlib
import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from bokeh_jax.config import ExperimentConfig
from bokeh_jax.training import (
    nonfinite,
    panels,
    preemption,
    progress,
    sharding,
    watchdog,
    writers,
)
from bokeh_jax.training.checkpoint_record import DataPosition
from bokeh_jax.training.executables import compile_steps, loader_config
from bokeh_jax.training.log import log, log_of_process
from bokeh_jax.training.loop import Hooks, run_steps, saves_at
from bokeh_jax.training.observer import Observer
from bokeh_jax.training.prefetch import DevicePrefetch
from bokeh_jax.training.saver import Saver
from bokeh_jax.training.start import initial_state
from bokeh_jax.training.state import TrainState
from bokeh_jax.training.step import TrainStep
from data_pipeline.loader import Loader, make_loader


@dataclasses.dataclass(frozen=True)
class Session:
    """What stays the same when a run goes back to its newest checkpoint.

    Attributes:
        config: of the run.
        workdir: of the run.
        mesh: of its devices.
        saver: of its checkpoints.
        stop_requested: whether the loop is to end before a step.
        watch: told what the process is at.
        observer: of times, traces and goodput.
        train_step: executables, one a shape.
        draw: parameters to a picture; None where none is drawn.
        judge: of steps that are not finite.
        frozen_digest: of the parameters that are not trained.
        visible: progress is shown on stdout.
    """

    config: ExperimentConfig
    workdir: Path
    mesh: Mesh
    saver: Saver
    stop_requested: preemption.StopRequested
    watch: watchdog.Progress
    observer: Observer
    train_step: TrainStep
    draw: panels.Draw | None
    judge: nonfinite.Judge
    frozen_digest: str
    visible: bool

    def run(self, state: TrainState, position: DataPosition) -> tuple[TrainState, int]:
        """The loop, again from the newest checkpoint where a step made it go back.

        Returns:
            (state, updates done); saved.

        Raises:
            NonfiniteStep: `training.on_nonfinite` ends the run.
        """
        passed_over: frozenset[int] = frozenset()
        while True:
            try:
                return self._run_from(state, position, passed_over)
            except nonfinite.NonfiniteStep as found:
                if not found.may_roll_back or len(passed_over) == nonfinite.MAX_ROLLBACKS:
                    raise
                log(f"{found}: going back to the newest checkpoint")
                passed_over |= {found.lost.step}
            # Out of the handler, whose traceback would keep the state that is given up.
            self.saver.wait()
            state, position = initial_state(
                self.config,
                self.workdir,
                self.mesh,
                position.dataset_fingerprint,
                frozen=self.frozen_digest,
            )

    def _run_from(
        self, state: TrainState, position: DataPosition, passed_over: frozenset[int]
    ) -> tuple[TrainState, int]:
        """The loop with its writer, screen and loader; saves where it stops."""
        first, observer = position.next_step, self.observer
        main_process = jax.process_index() == 0
        writer = writers.open_writer(self.workdir, first) if main_process else None
        screen = progress.make_reporter(
            first, self.config.training.num_steps, visible=self.visible and main_process
        )
        placement = sharding.batch_sharding(self.mesh)
        loader = self._loader(placement, first)
        hooks = self._hooks(position, writer, screen, loader, passed_over)
        observer.loop_begins(first)
        with contextlib.closing(loader), screen, DevicePrefetch(loader, placement) as batches:
            state, step = run_steps(self.config, self.train_step, state, first, batches, hooks)
            observer.profiler.close(step, state)
        if step > first and not saves_at(self.config, step):
            with self.watch.phase(f"saving step {step}"):
                hooks.save(state, step)
        observer.loop_ends(step)
        if writer is not None:
            writer.close()
        return state, step

    def _loader(self, placement: jax.sharding.NamedSharding, first_step: int) -> Loader:
        loader = make_loader(
            loader_config(self.config),
            start_step=first_step,
            rows=sharding.own_rows(placement, self.config.training.global_batch_size),
            warn=log_of_process,
        )
        log(f"data: the next batch is of {loader.position_at(first_step)}")
        return loader

    def _hooks(
        self,
        position: DataPosition,
        writer: writers.MetricWriter | None,
        screen: progress.ProgressReporter,
        loader: Loader,
        passed_over: frozenset[int],
    ) -> Hooks:
        meter = self.observer.meter

        def save(state: TrainState, step: int) -> None:
            with meter.blocked("checkpoint", state):
                self.saver.save(state, dataclasses.replace(position, next_step=step))

        def panel(state: TrainState, step: int) -> None:
            if self.draw is None:
                return
            with meter.blocked("panel", state.ema):
                picture = self.draw(state.ema)
            if writer is not None:
                writer.image(step, "panel", picture)

        reporter = self.observer.reporter(writer, screen, lambda: loader.num_replaced)
        return Hooks(
            save=save,
            panel=panel,
            report=reporter.report,
            stop_requested=self.stop_requested,
            judge=self.judge,
            passed_over=passed_over,
            progress=self.watch,
            profile=self.observer.profiler.at_step,
            meter=meter,
        )


def compiled(
    config: ExperimentConfig, mesh: Mesh, state: TrainState, frozen: Any
) -> tuple[TrainStep, panels.Draw | None]:
    """The run's executables: the step for every shape, and the panel where one is drawn."""
    step = compile_steps(config, state, frozen, sharding.batch_sharding(mesh))
    if not config.training.image_every_steps:
        return step, None
    started = time.monotonic()
    draw = panels.make_panel(config, mesh, state.ema, frozen)
    log(f"panel compiled in {time.monotonic() - started:.1f} s")
    return step, draw
