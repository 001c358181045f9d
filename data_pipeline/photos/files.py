"""What belongs to one photograph: its file, its map, its caption and its mask, and where they lie.

What a file is, its name says. With `name` the photograph's name and several endings for most:

    name.jpg, .jpeg, .png, .webp, .tif, .tiff                     the photograph
    name.disparity.png, .tif, .tiff, .exr, .pfm, .npy, .npz       its disparity
    name.depth.png, ...                                           or its depth
    name.txt, or name.json with the key "caption"                 its caption
    name.mask.png                                                 the mask of its subject

The same names serve in a folder and in a tar shard.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from bokeh_jax.errors import InvalidInput

PHOTO_SUFFIXES = ("jpg", "jpeg", "png", "webp", "tif", "tiff")
MAP_SUFFIXES = ("png", "tif", "tiff", "exr", "pfm", "npy", "npz")

MapKind = Literal["disparity", "depth"]
DisparityUnit = Literal["relative", "metric"]
Role = Literal["photo", "disparity", "depth", "mask", "text", "json"]

_CHUNK_BYTES = 1 << 20
_TWO_PART_NAME = re.compile(r"(.+?)\.((?:disparity|depth|mask)\.[^.]+)", re.IGNORECASE | re.DOTALL)


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """Bytes on disk: a whole file, or a member of a tar shard.

    Attributes:
        path: the file, or the shard.
        member: the member's name in the shard; empty for a file.
        offset: where the bytes begin.
        size: how many there are; None for all of the file.
    """

    path: Path
    member: str = ""
    offset: int = 0
    size: int | None = None

    def __str__(self) -> str:
        return f"{self.path}/{self.member}" if self.member else str(self.path)

    @property
    def suffix(self) -> str:
        """The ending, lower case, without the dot."""
        return Path(self.member or self.path.name).suffix.lower()[1:]

    def read(self) -> bytes:
        """Return the bytes.

        Raises:
            InvalidInput: they cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                data = file.read() if self.size is None else file.read(self.size)
        except OSError as error:
            raise InvalidInput(
                f"file {self} cannot be read ({error.strerror}); allowed: a readable file"
            ) from error
        if self.size is not None and len(data) != self.size:
            raise InvalidInput(f"file {self} has {len(data)} bytes; allowed: {self.size}")
        return data

    def sha256(self) -> bytes | None:
        """Return the digest of the bytes, read piece by piece; None where they cannot be read."""
        digest = hashlib.sha256()
        left = self.size
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                while left != 0:
                    piece = file.read(_CHUNK_BYTES if left is None else min(_CHUNK_BYTES, left))
                    if not piece:
                        break
                    digest.update(piece)
                    left = None if left is None else left - len(piece)
        except OSError:
            return None
        return None if left else digest.digest()


@dataclasses.dataclass(frozen=True, slots=True)
class PhotoFiles:
    """One photograph and what belongs to it.

    Attributes:
        key: names it, unlike all others of the source.
        image: the photograph.
        map: its disparity or depth; None where there is none.
        map_kind: which of the two `map` is.
        unit: what the map holds; None for what the source says.
        caption: the words themselves, or the file that has them; None where there is none.
        mask: of the subject; None where there is none.
    """

    key: str
    image: Part
    map: Part | None = None
    map_kind: MapKind = "disparity"
    unit: DisparityUnit | None = None
    caption: Part | str | None = None
    mask: Part | None = None

    def parts(self) -> tuple[Part, ...]:
        """All its files."""
        all_parts = (self.image, self.map, self.caption, self.mask)
        return tuple(part for part in all_parts if isinstance(part, Part))


Roles = Mapping[Role, Sequence[Part]]


def split_name(name: str) -> tuple[str, str]:
    """Split a file's name into the photograph's name and the ending that says what the file is."""
    match = _TWO_PART_NAME.fullmatch(name)
    if match is not None:
        return match[1], match[2].lower()
    stem, _, ending = name.rpartition(".")
    return stem, ending.lower()


def role_of(ending: str) -> Role | None:
    """What a file with this ending is; None for none of what belongs to a photograph."""
    word, _, suffix = ending.rpartition(".")
    if not word and suffix in PHOTO_SUFFIXES:
        return "photo"
    if word in ("disparity", "depth") and suffix in MAP_SUFFIXES:
        return "disparity" if word == "disparity" else "depth"
    others: dict[str, Role] = {"txt": "text", "json": "json", "mask.png": "mask"}
    return others.get(ending)


def photo_files(key: str, image: Part, roles: Roles, wanted: MapKind | None) -> PhotoFiles:
    """Put together what belongs to a photograph.

    Args:
        key: names it.
        image: the photograph.
        roles: the files that go by its name.
        wanted: which maps count; None for either.

    Raises:
        InvalidInput: more than one map, or more than one mask.
    """
    kinds: tuple[MapKind, ...] = ("disparity", "depth") if wanted is None else (wanted,)
    maps: list[tuple[Part, MapKind]] = [
        (part, kind) for kind in kinds for part in roles.get(kind, ())
    ]
    if len(maps) > 1:
        names = ", ".join((part.member or str(part.path)) for part, _ in maps)
        raise InvalidInput(
            f"maps of {image} are {names}; allowed: one (map_kind chooses disparity or depth)"
        )
    texts = (*roles.get("text", ()), *roles.get("json", ()))
    return PhotoFiles(
        key=key,
        image=image,
        map=maps[0][0] if maps else None,
        map_kind=maps[0][1] if maps else "disparity",
        caption=texts[0] if texts else None,
        mask=next(iter(roles.get("mask", ())), None),
    )


def caption_of(caption: Part | str | None) -> str:
    """Return a caption's words on one line; empty where there is none.

    Raises:
        InvalidInput: its file is no text, or no JSON object with a text under "caption".
    """
    if not isinstance(caption, Part):
        return " ".join((caption or "").split())
    try:
        text = caption.read().decode("utf-8")
        if caption.suffix == "json":
            text = json.loads(text).get("caption") or ""
        return " ".join(text.split())
    except (UnicodeDecodeError, json.JSONDecodeError, AttributeError):
        raise InvalidInput(
            f"caption {caption} cannot be read; allowed: UTF-8 text, or a JSON object whose "
            "caption is a text"
        ) from None
