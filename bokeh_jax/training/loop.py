"""The one loop over steps."""

import dataclasses
from collections.abc import Callable, Iterator

import jax

from bokeh_jax.config import ExperimentConfig
from bokeh_jax.training import nonfinite, preemption, watchdog
from bokeh_jax.training.accounting import Meter
from bokeh_jax.training.reporting import Window
from bokeh_jax.training.state import TrainState
from bokeh_jax.training.step import TrainStep


@dataclasses.dataclass(frozen=True)
class Hooks:
    """What the loop does besides stepping.

    Attributes:
        save: keeps a state after so many updates.
        panel: draws pictures with it.
        report: passes on what a window of steps measured.
        stop_requested: whether the loop is to end before a step.
        judge: reads which steps were lost, and may end the loop.
        passed_over: numbers of steps (the first of a run is 1) that are not run.
        progress: told what the loop is at.
        profile: called with the updates done before every step; begins and ends traces.
        meter: takes the loop's times.
    """

    save: Callable[[TrainState, int], None]
    panel: Callable[[TrainState, int], None]
    report: Callable[[int, Window], None]
    stop_requested: preemption.StopRequested
    judge: nonfinite.Judge
    passed_over: frozenset[int] = frozenset()
    progress: watchdog.Progress = dataclasses.field(default_factory=watchdog.Progress)
    profile: Callable[[int, TrainState], None] = lambda step, state: None
    meter: Meter = dataclasses.field(default_factory=Meter)

    def report_and_judge(self, step: int, window: Window) -> None:
        """Reads a window: waits for its last step."""
        self.progress.doing = f"reading the metrics of step {step}"
        self.report(step, window)
        self.check(window)

    def check(self, window: Window) -> None:
        """Reads only which steps of a window were lost."""
        if window.metrics is not None:
            self.judge.check(window.metrics, window.steps)

    def judge_before_save(self, *windows: Window | None) -> None:
        """What a checkpoint is to hold has been judged, where a verdict could forbid it."""
        if self.judge.reads_before_saves:
            for window in windows:
                self.check(window or Window())


def saves_at(config: ExperimentConfig, step: int) -> bool:
    """Whether the loop itself saves after the update that makes `step`."""
    settings = config.training
    return step == settings.num_steps or step % settings.checkpoint_every_steps == 0


def draws_at(config: ExperimentConfig, step: int) -> bool:
    """Whether the loop draws a panel after the update that makes `step`."""
    every = config.training.image_every_steps
    return every > 0 and (step == config.training.num_steps or step % every == 0)


def run_steps(
    config: ExperimentConfig,
    train_step: TrainStep,
    state: TrainState,
    first_step: int,
    batches: Iterator[dict[str, jax.Array]],
    hooks: Hooks,
) -> tuple[TrainState, int]:
    """Runs from `first_step` to the end or to a stop request -> (state, steps done).

    INVARIANTS, each guarded by a test:
      * At the top of the loop `step` updates are done and `step` batches used; state.step == step.
      * A save holds state and data position after the same update. Batches that wait on the device
        by then are drawn again after a restart: which ones they are is a function of the step.
      * Values are asked for before the next step is queued, and read after: the host waits for
        one step while the device has the next, and the device never waits for the host. Before a
        save it may: whether all steps were finite.
      * Nothing compiles here: `train_step` is executables, one a shape; another shape raises.
      * Every implicit transfer between host and device is an error.
    """
    settings, meter, progress = config.training, hooks.meter, hooks.progress
    step, window, due = first_step, Window(), None
    progress.begin()
    while step < settings.num_steps and not hooks.stop_requested(step):
        hooks.profile(step, state)
        progress.doing = f"waiting for the batch of step {step + 1}"
        batch = meter.next_batch(batches)
        progress.doing = f"starting step {step + 1}"
        in_trace = jax.profiler.StepTraceAnnotation("train", step_num=step + 1)
        with jax.transfer_guard("disallow"), in_trace:
            if step + 1 in hooks.passed_over:
                state = dataclasses.replace(state, step=nonfinite.pass_over(state.step))
            else:
                state, metrics = train_step(state, batch)
                progress.queue(step + 1, jax.tree.leaves(metrics)[0])
                meter.dispatched(metrics)
                window = window.with_step(metrics, meter.flops(batch))
        step += 1
        if due is not None:
            hooks.report_and_judge(*due)
            due = None
        last = step == settings.num_steps
        if (last or step % settings.log_every_steps == 0) and window.steps:
            due, window = (step, window.closed()), Window()
        if draws_at(config, step):
            with progress.phase(f"drawing the panel of step {step}"):
                hooks.panel(state, step)
        if saves_at(config, step):
            hooks.judge_before_save(due and due[1], window)
            with progress.phase(f"saving step {step}"):
                hooks.save(state, step)
    if due is not None:
        hooks.report_and_judge(*due)
    hooks.check(window)
    progress.doing = "finishing"
    return state, step
