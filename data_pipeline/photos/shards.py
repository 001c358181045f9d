"""Photographs in tar shards of the webdataset layout, read where they lie, without unpacking.

A shard is an uncompressed tar file. Members that share all of their name up to the first dot of the
file name belong together; what follows that dot says what each is, as in `files`:

    000042.jpg  000042.depth.npy  000042.json  000042.mask.png

Shards are given as one path, with braces (`shards-{000..010}.tar`, both ends included) or as a
pattern (`shards-*.tar`). The headers are read once; a member is then read by its offset. The key of
a photograph is `shard/name`, since names may come again in the next shard.
"""

import glob
import re
import tarfile
from pathlib import Path, PurePosixPath

from bokeh_jax.errors import InvalidInput
from data_pipeline.photos.files import MapKind, Part, PhotoFiles, Role, photo_files, role_of

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MAX_SHARDS = 1_000_000


def is_shards(where: str) -> bool:
    """Whether a source's place names tar shards."""
    return where.lower().endswith(".tar")


def shard_paths(where: str) -> tuple[Path, ...]:
    """Return the shards that a path, a brace range or a pattern names, in order.

    Raises:
        InvalidInput: a shard that is not there, or none at all.
    """
    named = [Path(where)] if Path(where).is_file() else [Path(text) for text in _expand(where)]
    if len(named) == 1 and not named[0].is_file():
        named = [Path(found) for found in sorted(glob.glob(str(named[0])))]
    missing = [path for path in named if not path.is_file()]
    if missing or not named:
        raise InvalidInput(
            f"shards {where}: {len(missing)} of {len(named)} are not there"
            + (f", first {missing[0]}" if missing else "")
            + "; allowed: tar files, as x.tar, x-{000..010}.tar or x-*.tar"
        )
    if len({path.name for path in named}) != len(named):
        raise InvalidInput(f"shards {where} have equal names; allowed: names that differ")
    return tuple(named)


def shard_photos(path: Path, wanted: MapKind | None) -> tuple[PhotoFiles, ...]:
    """Return the photographs of a shard, in its order.

    Raises:
        InvalidInput: it cannot be read, or a photograph has two images or two maps.
    """
    grouped: dict[str, dict[Role, list[Part]]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                name = PurePosixPath(member.name)
                if not member.isfile() or member.issparse() or name.name.startswith("."):
                    continue
                stem, _, ending = name.name.partition(".")
                role = role_of(ending.lower())
                if role is None:
                    continue
                key = str(name.with_name(stem))
                part = Part(path, member.name, member.offset_data, member.size)
                grouped.setdefault(key, {}).setdefault(role, []).append(part)
    except (OSError, tarfile.TarError) as error:
        raise InvalidInput(
            f"shard {path} cannot be read ({' '.join(str(error).split())}); "
            "allowed: a whole tar file without compression"
        ) from error
    return tuple(
        photo_files(f"{path.name}/{key}", _only_image(path, key, roles), roles, wanted)
        for key, roles in grouped.items()
        if "photo" in roles
    )


def _only_image(path: Path, key: str, roles: dict[Role, list[Part]]) -> Part:
    images = roles["photo"]
    if len(images) > 1:
        names = ", ".join(part.member for part in images)
        raise InvalidInput(f"shard {path} has for {key} the images {names}; allowed: one")
    return images[0]


def _expand(text: str) -> list[str]:
    """All texts of a brace range, one brace after the other."""
    match = _BRACES.search(text)
    if match is None:
        return [text]
    low, high = int(match[1]), int(match[2])
    if not low <= high < low + _MAX_SHARDS:
        raise InvalidInput(f"range of shards is {match[0]}; allowed: the smaller number first")
    numbers = (str(number).zfill(len(match[1])) for number in range(low, high + 1))
    ends = _expand(text[match.end() :])
    return [text[: match.start()] + number + end for number in numbers for end in ends]
