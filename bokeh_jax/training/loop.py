"""The one loop over steps."""

import dataclasses
import time
from collections.abc import Callable, Iterator

import jax

from bokeh_jax.config import ExperimentConfig
from bokeh_jax.training import preemption
from bokeh_jax.training.reporting import Window
from bokeh_jax.training.state import TrainState
from bokeh_jax.training.step import TrainStep


@dataclasses.dataclass(frozen=True)
class Hooks:
    """What the loop does besides stepping."""

    save: Callable[[TrainState, int], None]
    panel: Callable[[TrainState, int], None]
    report: Callable[[int, Window], None]
    stop_requested: preemption.StopRequested


def saves_at(config: ExperimentConfig, step: int) -> bool:
    """Whether the loop itself saves after the update that makes `step`."""
    settings = config.training
    return step == settings.num_steps or step % settings.checkpoint_every_steps == 0


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
      * Values are read one step after they were asked for, when the next step is already queued:
        the device never waits for the host.
      * Nothing compiles here: `train_step` is executables, one a shape; another shape raises.
      * Every implicit transfer between host and device is an error.
    """
    settings = config.training
    step, window, due = first_step, Window(), None
    while step < settings.num_steps and not hooks.stop_requested(step):
        waiting_since = time.monotonic()
        batch = next(batches)
        waited_seconds = time.monotonic() - waiting_since
        with jax.transfer_guard("disallow"):
            state, metrics = train_step(state, batch)
        step += 1
        window = window.with_step(metrics, waited_seconds)
        if due is not None:
            hooks.report(*due)
            due = None
        last = step == settings.num_steps
        if last or step % settings.log_every_steps == 0:
            due, window = (step, window), Window()
        if last or step % settings.image_every_steps == 0:
            hooks.panel(state, step)
        if saves_at(config, step):
            hooks.save(state, step)
    if due is not None:
        hooks.report(*due)
    return state, step
