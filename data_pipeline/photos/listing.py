"""Photographs of a folder, and of a list.

A folder's photographs lie in it and not in folders below it. A map lies beside its photograph, as
`name.disparity.png`, or in the folder `disparity` or `depth` there, as `disparity/name.png`. All
names are in `files`. Files whose name begins with a dot do not count.

A list is one of

- `.jsonl`: one JSON object a line, with the keys `image`, and where wanted `disparity` or `depth`,
  `disparity_unit` ("relative" or "metric"), `caption` (the words), `mask` and `key`;
- `.txt`: the path of one photograph a line.

Paths are relative to the list's folder. What a line does not name is looked for beside the
photograph. The key is the path as the list has it, unless the line gives another.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bokeh_jax.errors import InvalidInput
from data_pipeline.photos.files import (
    MAP_SUFFIXES,
    PHOTO_SUFFIXES,
    MapKind,
    Part,
    PhotoFiles,
    Role,
    Roles,
    photo_files,
    role_of,
    split_name,
)

LINE_KEYS = ("image", "disparity", "depth", "disparity_unit", "caption", "mask", "key")
_MAP_FOLDERS: tuple[MapKind, ...] = ("disparity", "depth")

Folder = Mapping[str, dict[Role, list[Part]]]


def folder_photos(folder: Path, wanted: MapKind | None) -> tuple[PhotoFiles, ...]:
    """Return the photographs of a folder, by name.

    Raises:
        InvalidInput: none there, or a photograph with more than one map.
    """
    found = _by_name(folder)
    photos = sorted(
        (part.path.name, part, roles) for roles in found.values() for part in roles.get("photo", ())
    )
    if not photos:
        raise InvalidInput(
            f"photograph folder {folder} has no photographs; allowed: {' '.join(PHOTO_SUFFIXES)}"
        )
    return tuple(photo_files(name, part, roles, wanted) for name, part, roles in photos)


def list_photos(path: Path, wanted: MapKind | None) -> tuple[PhotoFiles, ...]:
    """Return the photographs of a list, in its order.

    Raises:
        InvalidInput: a line that is none, two lines with one key, or no lines.
    """
    folders: dict[Path, Folder] = {}

    def beside(image: Path) -> Roles:
        if image.parent not in folders:
            folders[image.parent] = _by_name(image.parent) if image.parent.is_dir() else {}
        return folders[image.parent].get(split_name(image.name)[0], {})

    photos: list[PhotoFiles] = []
    line_of: dict[str, int] = {}
    for number, line in _lines(path):
        record = _record(path, number, line)
        photo = _photo_of(path, number, record, beside, wanted)
        if photo.key in line_of:
            raise InvalidInput(
                f"list {path} has {photo.key!r} on lines {line_of[photo.key]} and {number}; "
                "allowed: one line a key"
            )
        line_of[photo.key] = number
        photos.append(photo)
    if not photos:
        raise InvalidInput(f"list {path} has no photographs; allowed: one a line")
    return tuple(photos)


def _by_name(folder: Path) -> Folder:
    """All files of a folder and its folders of maps, by photograph's name and what they are."""
    found: dict[str, dict[Role, list[Part]]] = {}

    def add(stem: str, role: Role, file: Path) -> None:
        found.setdefault(stem, {}).setdefault(role, []).append(Part(file))

    for name in _names(folder):
        stem, ending = split_name(name)
        role = role_of(ending)
        if role is not None:
            add(stem, role, folder / name)
    for kind in _MAP_FOLDERS:
        for name in _names(folder / kind):
            stem, ending = split_name(name)
            if ending in MAP_SUFFIXES:
                add(stem, kind, folder / kind / name)
    return found


def _names(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if not e.name.startswith(".") and e.is_file())


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not empty, with their numbers."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"list {path} cannot be read ({error}); allowed: UTF-8 text") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, line.strip()


def _record(path: Path, number: int, line: str) -> dict[str, str]:
    """One line as an object of texts."""
    if path.suffix.lower() == ".txt":
        return {"image": line}
    try:
        record: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise InvalidInput(
            f"list {path} line {number} is no JSON ({error.msg}); allowed: one object a line"
        ) from None
    if not isinstance(record, dict) or not all(isinstance(v, str) for v in record.values()):
        raise InvalidInput(
            f"list {path} line {number} is {line[:60]}; allowed: one object a line, of texts"
        )
    unknown = sorted(record.keys() - set(LINE_KEYS))
    if unknown or "image" not in record:
        raise InvalidInput(
            f"list {path} line {number} has the keys {', '.join(sorted(record)) or 'none'}; "
            f"allowed: image and any of {', '.join(LINE_KEYS[1:])}"
        )
    if record.get("disparity_unit", "relative") not in ("relative", "metric"):
        raise InvalidInput(
            f"list {path} line {number} has disparity_unit {record['disparity_unit']!r}; "
            "allowed: relative, metric"
        )
    return record


def _photo_of(path: Path, number: int, record: dict[str, Any], beside, wanted) -> PhotoFiles:
    """What one line and the files beside its photograph say together."""
    image = path.parent / record["image"]
    roles: dict[Role, list[Part]] = dict(beside(image))
    named: list[MapKind] = [kind for kind in _MAP_FOLDERS if kind in record]
    if len(named) == 2 and wanted is None:
        raise InvalidInput(
            f"list {path} line {number} has disparity and depth; "
            "allowed: one (map_kind chooses disparity or depth)"
        )
    if named:
        roles |= {kind: [] for kind in _MAP_FOLDERS}
        roles |= {kind: [Part(path.parent / record[kind])] for kind in named}
    if "mask" in record:
        roles["mask"] = [Part(path.parent / record["mask"])]
    found = photo_files(record.get("key", record["image"]), Part(image), roles, wanted)
    return PhotoFiles(
        key=found.key,
        image=found.image,
        map=found.map,
        map_kind=found.map_kind,
        unit=record.get("disparity_unit"),
        caption=record.get("caption", found.caption),
        mask=found.mask,
    )
