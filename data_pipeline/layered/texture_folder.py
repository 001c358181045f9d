"""A folder of one's own photographs as textures.

What is held out is decided by a photograph's content: with h the SHA-256 of its file, read as a
number in [0, 1), it is held out where h < `held_out_share`. Copies under other names go the same
way, and a folder that grows moves no photograph from one side to the other. Where no photograph of
a small folder is that low, the one of the smallest h is held out.

Photographs are read when a scene needs them, so a folder may be larger than memory.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from bokeh_jax.errors import InvalidInput
from data_pipeline.layered.textures import Textures, shrunk
from data_pipeline.source import SkippedScene, check_int

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp")
DEFAULT_MAX_SIDE_PX = 1024
MIN_SIDE_PX = 32
MAX_WORDS = 120
# Decoded photographs that a process keeps, 3 MiB each.
KEPT = 48


@dataclasses.dataclass(frozen=True, eq=False)
class PhotoFiles(Mapping[str, Any]):
    """Photographs by name, read from their files each time.

    Attributes:
        folder: where they lie.
        digests: SHA-256 of each file, by its path in the folder.
        max_side_px: larger ones are shrunk.
    """

    folder: str
    digests: Mapping[str, str]
    max_side_px: int = DEFAULT_MAX_SIDE_PX

    def __getitem__(self, name: str) -> UInt8[np.ndarray, "_ _ 3"]:
        return _read(self.folder, name, self.digests[name], self.max_side_px)

    def __iter__(self) -> Iterator[str]:
        return iter(self.digests)

    def __len__(self) -> int:
        return len(self.digests)


def folder_textures(
    folder: str | Path, *, held_out_share: float = 0.1, max_side_px: int = DEFAULT_MAX_SIDE_PX
) -> Textures:
    """Take the photographs in a folder, and in the folders in it, as textures.

    A text file of the same name (`roof.txt` beside `roof.jpg`) says what captions call a
    photograph; else its file's name does.

    Args:
        folder: with JPEG, PNG, TIFF or WebP files.
        held_out_share: of the photographs, for `eval_heldout`; above 0, below 1.
        max_side_px: photographs with a longer side are shrunk to it, 128 to 4096 pixels.

    Raises:
        InvalidInput: no such folder, fewer than two different photographs, or a bad value.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InvalidInput(f"texture folder is {folder}; allowed: a folder of photographs")
    if not 0 < held_out_share < 1:
        raise InvalidInput(f"held_out_share is {held_out_share}; allowed: above 0, below 1")
    check_int("max_side_px", max_side_px, 128, 4096)
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    digests = {p.relative_to(root).as_posix(): _digest(p) for p in files}
    if len(set(digests.values())) < 2:
        raise InvalidInput(
            f"texture folder {folder} holds {len(set(digests.values()))} different photographs; "
            "allowed: at least 2, one of them for eval_heldout"
        )
    held_out = _held_out(set(digests.values()), held_out_share)
    words = {name: _words(root / name) for name in digests}
    content = hashlib.sha256(f"{held_out_share} {max_side_px}".encode())
    for name, digest in digests.items():
        content.update(f"\n{name} {digest} {words[name]}".encode())
    train = {name: d for name, d in digests.items() if d not in held_out}
    other = {name: d for name, d in digests.items() if d in held_out}
    return Textures(
        PhotoFiles(str(root), train, max_side_px),
        PhotoFiles(str(root), other, max_side_px),
        content.hexdigest(),
        words,
    )


def _held_out(digests: set[str], share: float) -> set[str]:
    """Those below the share; at least the lowest, and never all."""
    ordered = sorted(digests)
    count = sum(int(digest[:16], 16) < share * 2**64 for digest in ordered)
    return set(ordered[: min(max(1, count), len(ordered) - 1)])


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _words(path: Path) -> str:
    """The first line beside a photograph, or its file's name."""
    beside = path.with_suffix(".txt")
    lines = beside.read_text("utf-8", "replace").split("\n") if beside.is_file() else []
    said = [" ".join(line.split()) for line in lines if line.strip()]
    return said[0][:MAX_WORDS].rstrip(" .") if said else path.stem.replace("_", " ")


@functools.lru_cache(maxsize=KEPT)
def _read(folder: str, name: str, digest: str, max_side_px: int) -> UInt8[np.ndarray, "_ _ 3"]:
    path = Path(folder) / name
    try:
        if _digest(path) != digest:
            raise SkippedScene(name, "the file has changed since the build began", damaged=True)
        with Image.open(path) as file:
            # A JPEG is decoded at a half, a quarter or an eighth where that is large enough.
            file.draft("RGB", (max_side_px, max_side_px))
            pixels = shrunk(ImageOps.exif_transpose(file).convert("RGB"), max_side_px)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise SkippedScene(name, f"cannot be read: {error}", damaged=True) from error
    if min(pixels.shape[:2]) < MIN_SIDE_PX:
        raise SkippedScene(name, f"smaller than {MIN_SIDE_PX} pixels", damaged=True)
    pixels.flags.writeable = False
    return pixels
