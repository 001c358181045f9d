"""What the processes of a job tell each other when one of them is told to leave.

The board is the key-value store of JAX's coordination service, which process 0 keeps. Nothing here
is a collective: threads use it while the main thread compiles, or waits for the devices.

    notice/<process>  to this process: the job is to end; `closed`, by itself: it listens no more
    begun/<process>   the newest step that this process had begun by then, or `starting`
    left/<process>    this process leaves now
"""

import dataclasses
from typing import Any

import jax
from jax._src import distributed  # the public API has no key-value store

_STARTING, _CLOSED = "starting", "closed"
_PREFIX = "bokeh_jax/stop/"
# Waiting is repeated in slices of this length; it ends at once when the answer is there.
_SLICE_MS = 60_000
# Process 0 keeps the board; so long it waits for the others to have read it.
_LAST_SECONDS = 10


@dataclasses.dataclass(frozen=True)
class Board:
    """The job's board as one process sees it.

    Attributes:
        client: of JAX's coordination service.
        process: this process's number.
        count: of processes.
    """

    client: Any
    process: int
    count: int

    def announce(self) -> None:
        """Tell all processes, this one included, that the job is to end."""
        for other in range(self.count):
            self._write(f"notice/{other}", str(self.process))

    def wait_for_notice(self) -> bool:
        """Wait until a process was told to leave, or this one listens no more (False)."""
        return self._read(f"notice/{self.process}") != _CLOSED

    def listen_no_more(self) -> None:
        """End the waiting of this process: a thread in C++ would abort the interpreter's end."""
        self._write(f"notice/{self.process}", _CLOSED)

    def exchange(self, begun: int | None) -> list[int | None]:
        """Tell the newest step that this process has begun; wait for what all the others say.

        Args:
            begun: None where the process has not come to its first step.

        Returns:
            The same list on every process.
        """
        self._write(f"begun/{self.process}", _STARTING if begun is None else str(begun))
        texts = [self._read(f"begun/{other}") for other in range(self.count)]
        return [None if text == _STARTING else int(text) for text in texts]

    def sign_off(self) -> None:
        """Tell that this process leaves; process 0 waits a while until the others have, too."""
        self._write(f"left/{self.process}", "")
        if self.process:
            return
        for other in range(1, self.count):
            self.client.blocking_key_value_get(f"{_PREFIX}left/{other}", 1000 * _LAST_SECONDS)

    def _write(self, key: str, text: str) -> None:
        self.client.key_value_set(_PREFIX + key, text, allow_overwrite=True)

    def _read(self, key: str) -> str:
        while True:
            try:
                return self.client.blocking_key_value_get(_PREFIX + key, _SLICE_MS)
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise


def job_board() -> Board | None:
    """The board of the job that this process has joined; None where it is alone."""
    job = distributed.global_state
    if job.client is None or job.num_processes is None or job.num_processes < 2:
        return None
    return Board(job.client, job.process_id, job.num_processes)
