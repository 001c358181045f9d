"""Profiler traces on demand: of named steps, or, at SIGUSR1, of the steps that come next.

A trace is begun and ended with nothing left to run on the device, so it holds whole steps; that
costs the two pauses and nothing where no trace was asked for. It lies in

    <workdir>/profile/<updates done when it began>            of process 0
    <workdir>/profile/<updates done when it began>-process3   of another

and is read by XProf (`tensorboard --logdir=<workdir>/profile` with its plugin) or, through its
trace.json.gz, by ui.perfetto.dev.
"""

import contextlib
import dataclasses
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from bokeh_jax.errors import InvalidInput
from bokeh_jax.training.log import log_of_process

FOLDER = "profile"
SIGNAL = signal.SIGUSR1
STEPS_AT_SIGNAL = 5
# A profiler that is taken, or a disk that is full: nothing to lose a run for.
_TROUBLE = (OSError, RuntimeError)


@dataclasses.dataclass(frozen=True)
class StepRange:
    """From when `first` updates are done until `last` are: the steps first + 1 to last."""

    first: int
    last: int

    def __str__(self):
        return f"{self.first}:{self.last}"


def parse_steps(text: str | None) -> StepRange | None:
    """FROM:TO.

    Raises:
        InvalidInput: it is not that, or TO is not above FROM.
    """
    if text is None:
        return None
    first, colon, last = text.partition(":")
    if not (colon and first.isdecimal() and last.isdecimal() and int(first) < int(last)):
        raise InvalidInput(
            f"--profile-steps is {text!r}; allowed: FROM:TO, whole numbers, FROM below TO, such as "
            "20:25 for the steps 21 to 25"
        )
    return StepRange(int(first), int(last))


def check_steps(steps: StepRange | None, num_steps: int) -> None:
    """The steps are of this run.

    Raises:
        InvalidInput: the run ends before they begin.
    """
    if steps is not None and steps.first >= num_steps:
        raise InvalidInput(
            f"--profile-steps is {steps}; allowed: FROM below training.num_steps={num_steps}"
        )


class Profiler:
    """Traces this process's part of the job; one trace at a time."""

    def __init__(self, folder: Path, steps: StepRange | None = None):
        """Wait for the steps, or for a request.

        Args:
            folder: receives one folder a trace.
            steps: to be traced by process 0.
        """
        self._folder = folder
        self._steps = steps if jax.process_index() == 0 else None
        self._requested = False
        self._ends_at: int | None = None
        self._target = folder

    def request(self) -> None:
        """Traces the next `STEPS_AT_SIGNAL` steps, after a trace that is being made."""
        self._requested = True

    def at_step(self, step: int, state: Any) -> None:
        """To be called when `step` updates are done and before the next is queued."""
        if self._ends_at is not None and step >= self._ends_at:
            self._end(step, state)
        if self._ends_at is not None:
            return
        if self._steps is not None and self._steps.first <= step < self._steps.last:
            self._begin(step, self._steps.last, state)
        elif self._requested:
            self._requested = False
            self._begin(step, step + STEPS_AT_SIGNAL, state)

    def close(self, step: int, state: Any) -> None:
        """Ends a trace that the end of the loop has cut short."""
        if self._ends_at is not None:
            self._end(step, state)

    def abandon(self) -> None:
        """Lets go of a trace that an exception has left open."""
        if self._ends_at is not None:
            self._ends_at = None
            with contextlib.suppress(*_TROUBLE):
                jax.profiler.stop_trace()

    def _begin(self, step: int, ends_at: int, state: Any) -> None:
        index = jax.process_index()
        self._target = self._folder / (f"{step}-process{index}" if index else str(step))
        options = jax.profiler.ProfileOptions()
        # Every Python call of every thread would drown the steps, and slow them.
        options.python_tracer_level = 0
        jax.block_until_ready(state)
        try:
            # A trace that cannot be written when it ends would keep the profiler from any other.
            self._target.mkdir(parents=True, exist_ok=True)
            jax.profiler.start_trace(self._target, profiler_options=options)
        except _TROUBLE as error:
            self._give_up(error)
        else:
            self._ends_at = ends_at

    def _end(self, step: int, state: Any) -> None:
        self._ends_at = None
        jax.block_until_ready(state)
        try:
            jax.profiler.stop_trace()
        except _TROUBLE as error:
            self._give_up(error)
        else:
            log_of_process(f"profile of the steps up to {step}: {self._target}")

    def _give_up(self, error: Exception) -> None:
        """Says why there is no trace; training goes on without."""
        self._steps = None
        log_of_process(f"no profile in {self._target}: {error}")


@contextlib.contextmanager
def profiler(workdir: Path, steps: StepRange | None) -> Iterator[Profiler]:
    """A profiler that listens to SIGUSR1, which would otherwise end the process."""
    made = Profiler(workdir / FOLDER, steps)
    before = signal.signal(SIGNAL, lambda _number, _frame: made.request())
    try:
        yield made
    finally:
        made.abandon()
        signal.signal(SIGNAL, before)
