"""TensorBoard's writer, without torch.

tensorboardX imports torch wherever it is installed, to name a type in annotations: two seconds of
every start, and memory on every host, for a library that nothing here uses. It does without where
there is none, so while it is imported there is none.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


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

__all__ = ["SummaryWriter"]
