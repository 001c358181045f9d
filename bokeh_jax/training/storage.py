"""What the storage below Orbax says, and when it is to say nothing.

A file that cannot be read or written reaches us as a chain of exceptions of Orbax, TensorStore and
the system, and as pages of tracebacks in the log. Here they become one reason, in one line.
"""

import contextlib
import gc
import logging
import os
import re
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
from orbax.checkpoint import v1 as ocp

T = TypeVar("T")
_LOGGERS = ("absl", None)  # None: the root, which its JSON reader uses
_MAX_REASON_CHARACTERS = 240
_LATE_ARRIVALS_SECONDS = 0.2
_LEFT_READS_SECONDS = 5.0
# TensorStore names the system's error, or one of these.
_SYSTEM_ERROR = re.compile(r"os_error_code='(\d+)'")
_STATUS = re.compile(
    r"^(RESOURCE_EXHAUSTED|PERMISSION_DENIED|UNAVAILABLE|UNAUTHENTICATED|DEADLINE_EXCEEDED)\b"
)


def _is_not_of_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname


def hush() -> None:
    """Keeps Orbax's tracebacks and warnings out of the log, for good: what matters is raised.

    For good, because its threads log failures at any time, also after they were raised.
    """
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_is_not_of_orbax)


def _none(_record: logging.LogRecord) -> bool:
    return False


def _is_read_of_orbax(thing: Any) -> bool:
    return isinstance(thing, types.CoroutineType) and "orbax" in thing.cr_code.co_filename


def _wait_for_left_reads() -> None:
    """Collects the reads that a failed one left behind; they end some time after it."""
    deadline = time.monotonic() + _LEFT_READS_SECONDS
    time.sleep(_LATE_ARRIVALS_SECONDS)
    while True:
        gc.collect()
        left = any(_is_read_of_orbax(thing) for thing in gc.get_objects())
        if not left or time.monotonic() > deadline:
            return
        time.sleep(_LATE_ARRIVALS_SECONDS)


@contextlib.contextmanager
def _older_objects_aside() -> Iterator[None]:
    """The collector sees only what is made from here on.

    A process that has traced programs holds millions of objects; to look through all of them for a
    few reads took seconds.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextlib.contextmanager
def _no_late_messages() -> Iterator[None]:
    """Keeps to itself what arrives at an event loop that is closed, and what is never awaited.

    A read that is given up in its middle is told so by `GeneratorExit`, which Orbax turns into an
    exception of its own.
    """
    before, loops = sys.unraisablehook, logging.getLogger("asyncio")

    def hook(unraisable: Any) -> None:
        late = "Event loop is closed" in str(unraisable.exc_value)
        if not late and not _is_read_of_orbax(unraisable.object):
            before(unraisable)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sys.unraisablehook = hook
        loops.addFilter(_none)
        try:
            yield
        finally:
            loops.removeFilter(_none)
            sys.unraisablehook = before


def attempt(read: Callable[[], T]) -> tuple[T | None, str | None]:
    """What `read` gives, or why it could not be read; nothing in the log.

    Orbax reads all arrays at once, on an event loop that it closes at the first failure. The others
    then arrive at a closed loop, each with a message, and so does every task that nobody awaits
    when it is collected: both are waited for here.
    """
    hush()
    with _no_late_messages(), _older_objects_aside(), alone():
        try:
            return read(), None
        except (jax.errors.JaxRuntimeError, MemoryError):
            raise  # of this machine's memory, not of what is read
        except Exception as error:
            problem = reading_reason(error)
        # Here the exception is gone, and with it what keeps the tasks alive.
        _wait_for_left_reads()
        return None, problem


def alone() -> ocp.Context:
    """Context for reading without waiting for other processes: a failure of one hangs none."""
    context = ocp.Context()
    context.multiprocessing.primary_host = jax.process_index()
    context.multiprocessing.active_processes = {jax.process_index()}
    return context


def _chain(error: BaseException) -> list[BaseException]:
    """An exception and what it came from, the latest first."""
    errors: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in errors:
        errors.append(current)
        current = current.__cause__ or current.__context__
    return errors


def system_reason(error: BaseException) -> str | None:
    """`No space left on device` and the like; None where the system did not refuse anything."""
    for part in _chain(error):
        if isinstance(part, OSError) and part.errno is not None:
            return part.strerror or os.strerror(part.errno)
        if found := _SYSTEM_ERROR.search(str(part)):
            return os.strerror(int(found.group(1)))
        if found := _STATUS.match(str(part)):
            return first_line(part)
    return None


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, shortened; its type where it has none."""
    lines = str(error).strip().strip("'\"").splitlines()
    text = lines[0].split(" [tensorstore_spec=")[0].split(" [source locations=")[0] if lines else ""
    return text[:_MAX_REASON_CHARACTERS] or type(error).__name__


def reading_reason(error: BaseException) -> str:
    """Why something could not be read, from the innermost exception."""
    return system_reason(error) or first_line(_chain(error)[-1])
