"""How long saves went on beside the loop, as Orbax itself measures and announces it."""

import contextlib
import queue
from collections.abc import Callable, Iterator

import jax

_EVENT = "/jax/checkpoint/write/async/thread_duration_sec"


@contextlib.contextmanager
def background_saves() -> Iterator[Callable[[], float | None]]:
    """Gives a function: seconds of the saves that ended since it was last asked, or None."""
    # Orbax announces from its own thread.
    ended: queue.SimpleQueue[float] = queue.SimpleQueue()

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event == _EVENT:
            ended.put(duration_secs)

    def take() -> float | None:
        seconds = [ended.get() for _ in range(ended.qsize())]
        return sum(seconds) if seconds else None

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield take
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
