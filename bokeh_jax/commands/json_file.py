"""The file that `--json` names: refused early where it cannot be written, never half written."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bokeh_jax.errors import InvalidInput


@contextlib.contextmanager
def _refused_if_unwritable(path: Path, option: str) -> Iterator[Path]:
    """A file beside `path`, gone in the end; InvalidInput where it cannot be written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
    except OSError as error:
        raise InvalidInput(
            f"{option} is {path}, which cannot be written ({error.strerror}); allowed: a file in "
            "an existing folder that this user may write"
        ) from None
    finally:
        if path.parent.is_dir():
            temporary.unlink(missing_ok=True)


def check_writable(path: Path, option: str = "--json") -> None:
    """Proves that the file can be written.

    Raises:
        InvalidInput: it is a folder, or cannot be written.
    """
    if path.is_dir() or not path.name:
        raise InvalidInput(f"{option} is {path}, a folder; allowed: a file")
    with _refused_if_unwritable(path, option) as temporary:
        temporary.touch()


def write_figures(path: Path, figures: Any) -> None:
    """Writes the figures, all at once, and says where they are.

    Raises:
        InvalidInput: they cannot be written.
    """
    with _refused_if_unwritable(path, "--json") as temporary:
        temporary.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        temporary.replace(path)
    print(f"figures: {path}")
