"""A stalled job ends: a thread that sees whether steps still finish on the device.

The loop queues steps ahead of the device, so what it does says little; the thread looks (without
waiting) at a scalar that every step gives back. Where no step has finished, and no save or panel
either, for `training.stall_timeout_seconds`, it says which process waited for what, writes the
Python stacks of all threads, and ends the process with the exit code 77: a host that hangs in a
collective, a file system or its data cannot be asked to leave. The launcher ends the others.

Start-up (restoring, compiling) has no limit here: how long it takes is not known beforehand. The
first step waits for the slowest start-up of all processes, so it has ten times the limit. A
process that stops altogether is found by its partners: JAX's heartbeat, which ends them.
"""

import collections
import contextlib
import dataclasses
import faulthandler
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from bokeh_jax.training.log import log_of_process

EXIT_STALLED = 77
_MOST_LOOKS_PER_SECOND = 4
_LOOKS_PER_LIMIT = 20
_FIRST_STEP_FACTOR = 10


@dataclasses.dataclass
class Progress:
    """What the main thread tells of itself, and what the device has finished.

    Attributes:
        enabled: somebody looks.
        doing: what the main thread is at, in words.
        since: when something last came to an end; None while there is no limit.
        finished_step: the last step that finished on the device; None before the first.
        queued: steps that were given to the device, with a value that each gives back.
    """

    enabled: bool = False
    doing: str = "starting"
    since: float | None = None
    finished_step: int | None = None
    queued: collections.deque[tuple[int, Any]] = dataclasses.field(
        default_factory=collections.deque
    )

    def queue(self, step: int, value: Any) -> None:
        """A step was given to the device; `value`, of its results, is ready when it has ended."""
        if self.enabled:
            self.queued.append((step, value))

    def begin(self) -> None:
        """From here on the limit holds."""
        self.since = time.monotonic()

    @contextlib.contextmanager
    def phase(self, doing: str) -> Iterator[None]:
        """Something that ends with the device's work done: a save, a panel. Its end is progress."""
        before, self.doing = self.doing, doing
        self.begin()
        yield
        self.doing, self.since = before, time.monotonic()

    def look(self) -> None:
        """Take note of the steps that have finished since the last look; waits for nothing."""
        while self.queued and self.queued[0][1].is_ready():
            self.finished_step, _ = self.queued.popleft()
            if self.since is not None:
                self.since = time.monotonic()

    def waits_for(self) -> str:
        """In words, for the log."""
        done = "none" if self.finished_step is None else self.finished_step
        given = f", step {self.queued[0][0]} is on the devices" if self.queued else ""
        return f"{self.doing} (last step finished: {done}{given})"


def _end(seconds: float, progress: Progress) -> None:
    log_of_process(
        f"stalled: nothing has come to an end for {seconds:.0f} s "
        f"(training.stall_timeout_seconds); it was {progress.waits_for()}"
    )
    faulthandler.dump_traceback(sys.stderr, all_threads=True)
    for child in multiprocessing.active_children():
        child.kill()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_STALLED)


def _watch(limit_seconds: float, progress: Progress, ended: threading.Event) -> None:
    """Thread."""
    pause = max(limit_seconds / _LOOKS_PER_LIMIT, 1 / _MOST_LOOKS_PER_SECOND)
    while not ended.wait(pause):
        progress.look()
        since, first = progress.since, progress.finished_step is None
        allowed_seconds = limit_seconds * (_FIRST_STEP_FACTOR if first else 1)
        if since is not None and time.monotonic() - since > allowed_seconds:
            _end(time.monotonic() - since, progress)


@contextlib.contextmanager
def watched(limit_seconds: float) -> Iterator[Progress]:
    """Ends the process where it stalls, once `Progress.begin` was called; a limit of 0 never does.

    Gives the `Progress` to tell. Leaving it ends the thread.
    """
    progress, ended = Progress(enabled=limit_seconds > 0), threading.Event()
    if limit_seconds <= 0:
        yield progress
        return
    thread = threading.Thread(
        target=_watch, args=(limit_seconds, progress, ended), name="watchdog", daemon=True
    )
    thread.start()
    try:
        yield progress
    finally:
        ended.set()
        thread.join()
