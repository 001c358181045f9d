"""One build at a time in a folder: a lock that is dropped when its holder ends, killed or not.

The lock is an advisory one (flock) on a file in the folder, which holds the process's number for
whoever is refused. Object stores have no such locks; there nothing is locked.
"""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from bokeh_jax.errors import InvalidInput
from data_pipeline.shards import is_local

LOCK_FILE = "lock"


@contextlib.contextmanager
def folder_lock(folder: epath.Path) -> Iterator[None]:
    """Hold a folder for this process; it is made if missing, and removed if empty at the end.

    Raises:
        InvalidInput: another process holds it, or it cannot be written.
    """
    if not is_local(os.fspath(folder)):
        yield
        return
    path = Path(folder) / LOCK_FILE
    descriptor = _acquire(path)
    try:
        yield
    finally:
        # While the lock is held, so that nobody locks a file that is about to go.
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            path.parent.rmdir()
        os.close(descriptor)


def _acquire(path: Path) -> int:
    """Open and lock the file, and write who holds it."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise InvalidInput(
                f"{path.parent} cannot be written ({error.strerror}); "
                "allowed: a folder with room, in which you may write"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The last holder may have removed the file between the two calls.
            if path.exists() and os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                os.truncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
                return descriptor
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode(errors="replace") or "another process"
            os.close(descriptor)
            raise InvalidInput(
                f"{path.parent} is in use by {holder}; allowed: one build at a time"
            ) from None
        os.close(descriptor)
