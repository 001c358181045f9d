"""TensorBoard's writer, without torch.

tensorboardX imports torch wherever it is installed, to name a type in annotations: two seconds of
every start, and memory on every host, for a library that nothing here uses. It does without where
there is none, so while it is imported there is none.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def _hidden(name: str) -> Iterator[None]:
    """A module that is not imported yet cannot be found meanwhile."""
    if name in sys.modules:
        yield
        return
    # What Python documents for a module that must not be found.
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


with _hidden("torch"):
    from tensorboardX import SummaryWriter


def own_writer(folder: os.PathLike[str] | str, name: str, **options: Any) -> SummaryWriter:
    """A writer with a file of its own.

    tensorboardX names files by the second: two writers of one folder that are opened within one
    are one file, with the points of the later alone.

    Args:
        folder: of the event files.
        name: what no other writer of this process has in this folder.
        **options: of `SummaryWriter`.
    """
    suffix = f".{name}.{os.getpid()}"
    return SummaryWriter(str(folder), filename_suffix=suffix, flush_secs=20, **options)
