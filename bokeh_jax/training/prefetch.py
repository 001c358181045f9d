"""Batches on their way to the device while it computes: a thread and a short queue.

The thread draws a host batch, starts its copy to the devices and queues the device arrays. At most
`depth` batches wait in the queue and one more in the thread, so device memory for data is bounded
by depth + 2 batches, the one in use included. The order is that of the host batches.
"""

import queue
import threading
import weakref
from collections.abc import Iterator
from types import TracebackType

import jax
import numpy as np
from jax.sharding import NamedSharding

from bokeh_jax.errors import InvalidInput
from bokeh_jax.training.sharding import put_batch

# How often a thread that waits for room in the queue looks whether it shall end.
_POLL_SECONDS = 0.05

HostBatch = dict[str, np.ndarray]
DeviceBatch = dict[str, jax.Array]
_Item = tuple[DeviceBatch | None, BaseException | None]


class DevicePrefetch:
    """Device batches in turn; ends as the host batches end, and raises what they raise.

    A context manager: leaving it ends the thread.
    """

    def __init__(self, batches: Iterator[HostBatch], sharding: NamedSharding, depth: int = 2):
        """Start drawing at once.

        Args:
            batches: this process's rows of every global batch.
            sharding: of the global batch's leading axis.
            depth: batches that may wait on the devices.

        Raises:
            InvalidInput: `depth` below 1.
        """
        if depth < 1:
            raise InvalidInput(f"depth of prefetching is {depth}; allowed: at least 1")
        self._queue: queue.Queue[_Item] = queue.Queue(depth)
        self._stop = threading.Event()
        self._ended: BaseException | None = None
        # The thread holds no reference to this object, so that dropping it ends the thread too.
        self._thread = threading.Thread(
            target=_fill,
            args=(batches, sharding, self._queue, self._stop),
            name="prefetch to device",
            daemon=True,
        )
        self._thread.start()
        weakref.finalize(self, self._stop.set)

    def __iter__(self) -> "DevicePrefetch":
        return self

    def __next__(self) -> DeviceBatch:
        """Return the next batch as soon as its copy is started.

        Raises:
            StopIteration: the host batches have ended, or this was closed.
            Exception: whatever drawing or copying a batch raised.
        """
        if self._ended is not None:
            raise self._ended
        batch, error = self._queue.get()
        if batch is not None:
            return batch
        assert error is not None
        self._ended = error
        raise error

    def close(self) -> None:
        """End the thread; batches that wait are dropped. The host batches are closed after this."""
        self._stop.set()
        self._ended = self._ended or StopIteration()
        self._thread.join()
        while not self._queue.empty():
            self._queue.get_nowait()

    def __enter__(self) -> "DevicePrefetch":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _fill(
    batches: Iterator[HostBatch],
    sharding: NamedSharding,
    items: queue.Queue[_Item],
    stop: threading.Event,
) -> None:
    """Run in the thread: until the end of the batches, an exception, or `stop`."""
    try:
        while not stop.is_set():
            _put((put_batch(next(batches), sharding), None), items, stop)
    except BaseException as error:
        # Whatever it is, it is the consumer's to see.
        _put((None, error), items, stop)


def _put(item: _Item, items: queue.Queue[_Item], stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            items.put(item, timeout=_POLL_SECONDS)
            return
        except queue.Full:
            continue
