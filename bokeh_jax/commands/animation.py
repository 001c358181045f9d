"""Moving pictures: frames into a GIF, a WebP or, by way of ffmpeg, an MP4 file."""

import contextlib
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from bokeh_jax.errors import InvalidInput

KINDS = {".gif": "GIF", ".webp": "WEBP", ".mp4": "MP4"}
# How an MP4 file tells its colours: sRGB, by the matrix of BT.709.
_SAID = "setparams=colorspace=bt709:color_primaries=bt709:color_trc=iec61966-2-1"


def check_animation_path(path: Path) -> None:
    """Refuses a file that could not be written.

    Raises:
        InvalidInput: an unknown ending, or .mp4 where there is no ffmpeg.
    """
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise InvalidInput(f"--animate is {path}; allowed endings: {', '.join(KINDS)}")
    if kind == "MP4" and shutil.which("ffmpeg") is None:
        raise InvalidInput(
            f"--animate is {path}, and the program ffmpeg is not found; allowed without it: "
            ".gif, .webp"
        )


def write_animation(
    path: Path, frames: Iterable[Float[np.ndarray, "h w 3"]], *, frames_per_second: float
) -> None:
    """Writes sRGB-encoded frames in [0, 1] one by one, beside the file first, then renamed.

    Raises:
        InvalidInput: what `check_animation_path` refuses, or a folder that cannot be written.
    """
    check_animation_path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    levels = (np.clip(np.rint(frame * 255.0), 0, 255).astype(np.uint8) for frame in frames)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if KINDS[path.suffix.lower()] == "MP4":
            _write_mp4(temporary, levels, frames_per_second)
        else:
            _write_pictures(temporary, levels, frames_per_second, KINDS[path.suffix.lower()])
        temporary.replace(path)
    except OSError as error:
        raise InvalidInput(
            f"output file {path} cannot be written ({error.strerror or error}); allowed: a folder "
            "that this user may write"
        ) from None
    finally:
        if path.parent.is_dir():
            temporary.unlink(missing_ok=True)


def _write_pictures(
    path: Path, levels: Iterator[np.ndarray], frames_per_second: float, kind: str
) -> None:
    first = Image.fromarray(next(levels))
    options = {"quality": 90, "method": 4} if kind == "WEBP" else {}
    first.save(
        path,
        format=kind,
        save_all=True,
        append_images=(Image.fromarray(level) for level in levels),
        duration=round(1000 / frames_per_second),
        loop=0,
        **options,
    )


def _write_mp4(path: Path, levels: Iterator[np.ndarray], frames_per_second: float) -> None:
    # Most players ask for halved colour, which asks for even sides.
    levels = (_even(level) for level in levels)
    first = next(levels)
    height, width = first.shape[:2]
    command = ["ffmpeg", "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{width}x{height}", "-r", f"{frames_per_second:g}", "-i", "-"]
    # Said in the file, because players take colours for BT.601 or BT.709 by the size otherwise.
    command += ["-vf", f"scale=out_color_matrix=bt709,format=yuv420p,{_SAID}"]
    command += ["-f", "mp4"]
    with tempfile.TemporaryFile() as messages:
        process = subprocess.Popen(
            [*command, str(path)], stdin=subprocess.PIPE, stdout=messages, stderr=messages
        )
        # A program that gives up closes its end; what it said is worth more than the broken pipe.
        with contextlib.suppress(BrokenPipeError), process:
            assert process.stdin is not None
            for level in itertools.chain([first], levels):
                process.stdin.write(level.tobytes())
        messages.seek(0)
        said = messages.read().decode(errors="replace").strip().splitlines()
    if process.returncode != 0:
        raise OSError(f"ffmpeg ended with {process.returncode}: {said[-1] if said else ''}")


def _even(level: np.ndarray) -> np.ndarray:
    """A frame of even sides; the last row or column is doubled, as black would be seen."""
    height, width = level.shape[:2]
    return np.pad(level, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
