"""Leaving in good order when told to: SIGTERM, or Ctrl-C.

    before the first step    nothing is new: the process leaves at once, with the exit code 75
    in the loop              the loop ends at the next step boundary, saves, and leaves with 75

"At once" has to hold while the main thread compiles for half an hour in C++, where no Python
handler runs: the interpreter's wake-up descriptor is written by the C handler, and a thread reads.

In a job of several processes, any of them may be told. It writes a notice that all see; each says
which step it has begun and begins no other until all have answered. The loop ends after the newest
step that any has begun, so that all save the same; where one has not come to its first step, no
step of this start can have finished, and all leave at once. (JAX's own preemption manager agrees on
a step in the same way, but a notice that comes before the loop is lost in a resumed run: it then
picks step 1. Its SIGTERM handler is turned off in `hosts.join`.)
"""

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator

import jax

from bokeh_jax.training.notices import Board, job_board

EXIT_PREEMPTED = 75  # EX_TEMPFAIL: "try again"; launchers restart on this code only.
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# A main thread that fails because its partners are leaving waits so long for its own leave.
_LEAVE_SECONDS = 30.0

StopRequested = Callable[[int], bool]


class _Stop:
    """When this process is to leave; told by threads, asked by the loop."""

    def __init__(self):
        self._changed = threading.Condition()
        self._begun: int | None = None
        self._stop_at: int | None = None
        self._noticed = False
        self.leaving = threading.Event()

    def requested(self, step: int) -> bool:
        """Whether the loop is to end before `step`; otherwise the step counts as begun."""
        with self._changed:
            # Between a notice and the agreement no step is begun, or there would be none.
            self._changed.wait_for(lambda: self._stop_at is not None or not self._noticed)
            if self._stop_at is not None and step >= self._stop_at:
                return True
            self._begun = step
            return False

    def notice(self, board: Board | None) -> None:
        """The job is to end: agree on the step, or leave at once."""
        with self._changed:
            if self._noticed:
                return
            self._noticed, begun = True, self._begun
            if begun is None:
                self.leaving.set()
        everywhere = [begun] if board is None else board.exchange(begun)
        steps = [step for step in everywhere if step is not None]
        if len(steps) < len(everywhere):
            self.leaving.set()
            _leave(board)
        with self._changed:
            self._stop_at = max(steps) + 1
            self._changed.notify_all()


def _leave(board: Board | None) -> None:
    """End the process at once. What it has on disk is whole at any moment."""
    if board is None or board.process == 0:
        print("stopped by a signal before the first step; there is nothing new to save", flush=True)
    for child in multiprocessing.active_children():
        child.kill()
    if board is not None:
        # The board may be gone with its keeper: then there is nobody to tell.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            board.sign_off()
    sys.stderr.flush()
    os._exit(EXIT_PREEMPTED)


def _on_signals(descriptor: socket.socket, stop: _Stop, *, has_listener: bool) -> None:
    """Thread: a byte a signal, until the other end is closed."""
    interrupted = False
    with descriptor:
        while number := descriptor.recv(1):
            if number[0] == signal.SIGINT and interrupted:
                os._exit(128 + signal.SIGINT)
            interrupted = interrupted or number[0] == signal.SIGINT
            if number[0] not in _SIGNALS:
                continue
            board = job_board()  # asked anew: the process may have joined its job since
            if board is not None:
                board.announce()
            if not has_listener:
                stop.notice(board)


def _on_notices(board: Board, stop: _Stop) -> None:
    """Thread: until a process of the job was told to leave, or this one listens no more."""
    # The service ends with the job: JAX's heartbeat sees to a process that has lost its partners.
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        if board.wait_for_notice():
            stop.notice(board)


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequested]:
    """Gives a function that says whether the loop is to end before a step; asked at every step.

    From the first call on the loop is running; until then a signal ends the process at once. May be
    nested: the innermost one answers. A second Ctrl-C ends the process without a save; SIGTERM may
    be repeated. To be entered from the main thread; handlers are put back after.
    """
    stop, board = _Stop(), job_board()
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    threads = [
        threading.Thread(
            target=_on_signals,
            args=(reader, stop),
            kwargs={"has_listener": board is not None},
            name="stop signals",
            daemon=True,
        )
    ]
    if board is not None:
        threads.append(
            threading.Thread(
                target=_on_notices, args=(board, stop), name="stop notices", daemon=True
            )
        )
    for thread in threads:
        thread.start()
    descriptor = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    # The thread does the work; Python only has to have a handler for the descriptor to be written.
    before = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
    try:
        yield stop.requested
    finally:
        if stop.leaving.is_set():
            # An error on the way out, such as a partner that is gone, is none.
            threading.Event().wait(_LEAVE_SECONDS)
        signal.set_wakeup_fd(descriptor)
        for number, handler in before.items():
            signal.signal(number, handler)
        writer.close()
        if board is not None:
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                board.listen_no_more()
        for thread in threads:
            thread.join(_LEAVE_SECONDS)
