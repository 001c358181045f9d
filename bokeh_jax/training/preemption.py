"""Leaving in good order: SIGTERM and Ctrl-C end the loop at the next step boundary, with a save.

In a job of several processes, SIGTERM to any one of them ends all: JAX's coordination service picks
a step that none has passed yet, and each leaves there, so that they save the same step.
"""

import contextlib
import signal
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils

EXIT_PREEMPTED = 75  # EX_TEMPFAIL: "try again"; launchers restart on this code only.

StopRequested = Callable[[int], bool]


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequested]:
    """Gives a function that says whether the loop is to end before a step; asked at every step.

    Alone: whether SIGTERM or SIGINT has come; handlers are put back after, and a second signal of
    the same kind gets the default treatment: the process ends at once. In a job of several
    processes: whether the step is the one at which all of them end, after SIGTERM to any.
    """
    if jax.process_count() > 1:
        # JAX has its own handler of SIGTERM there, which ours would replace.
        yield multihost_utils.reached_preemption_sync_point
        return
    received: list[int] = []

    def note(number: int, _frame: object) -> None:
        received.append(number)
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda step: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
