"""A dataset's scenes as they are read: by position in a split, one at a time or stacked.

What is in the folder is data_pipeline.dataset_folder's concern; its names are found here too.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from jaxtyping import Int64, UInt8, UInt16

from bokeh_jax.errors import InvalidInput
from data_pipeline.dataset_folder import (
    FORMAT_VERSION,
    METADATA_FILE,
    REBUILD,
    DatasetInfo,
    Group,
    dataset_info,
    fingerprint_of,
    groups_file,
    library_builder,
    read_groups,
    read_metadata,
)
from data_pipeline.records import decode_scene, parse_record
from data_pipeline.text_table import TextReader, open_text

__all__ = [
    "FORMAT_VERSION",
    "METADATA_FILE",
    "DatasetInfo",
    "Group",
    "SplitReader",
    "dataset_info",
    "fingerprint_of",
    "groups_file",
    "load_provenance",
    "load_split",
    "open_split",
    "read_metadata",
]


@dataclasses.dataclass(frozen=True, eq=False)
class SplitReader:
    """A split's scenes by position, ready for batching; picklable.

    Attributes:
        info: the dataset.
        split: name of the split.
        groups: the split's groups; `max_layers` is what scenes are filled up to.
        group_of: every record's position in `groups`.
        shards: (file name, number of records) of every shard.
        records: random access to the records' bytes.
        text: the captions' embeddings, where they are wanted and there.
        caption_bytes: length of the captions' own bytes, cut or filled up with 0; 0 for none.
        taken: photographs bring the view through a camera's lens, and that camera.
    """

    info: DatasetInfo
    split: str
    groups: tuple[Group, ...]
    group_of: UInt16[np.ndarray, " num_scenes"]
    shards: tuple[tuple[str, int], ...]
    records: ArrayRecordDataSource
    text: TextReader | None = None
    caption_bytes: int = 0
    taken: bool = False

    def __len__(self) -> int:
        return len(self.group_of)

    def positions(self, group: int) -> Int64[np.ndarray, " num_group"]:
        """Return the positions of a group's records, ascending.

        Raises:
            InvalidInput: no such group.
        """
        if not 0 <= group < len(self.groups):
            raise InvalidInput(
                f"group is {group}; allowed in split {self.split!r}: 0 to {len(self.groups) - 1}"
            )
        return np.flatnonzero(self.group_of == group)

    def shard_of(self, position: int) -> tuple[str, int]:
        """Return (name of the shard's file, the record's number in it)."""
        for name, length in self.shards:
            if position < length:
                return name, position
            position -= length
        raise IndexError(f"position is beyond split {self.split!r} by {position}")

    def values(self, position: int) -> dict[str, Any]:
        """Return a record's features, frames still encoded; see `records.features`.

        Raises:
            InvalidInput: the record is damaged; the line names shard and record.
        """
        try:
            kind = self.groups[self.group_of[position]].kind
            return parse_record(self.records[position], kind)
        except (RuntimeError, OSError, ValueError) as error:
            raise self._damaged(position, error) from error

    def __getitem__(self, position: int) -> dict[str, np.ndarray]:
        """Decode one scene: `records.decode_scene` and `scene_id`, int32, its position.

        Where the captions' embeddings are wanted and there: `text_table.TextReader.values` too;
        where their bytes are wanted: `caption` uint8 [n].

        Raises:
            InvalidInput: the record is damaged, or has another shape than its group; the line names
                shard and record.
        """
        values, group = self.values(position), self.groups[self.group_of[position]]
        frame = (group.height_px, group.width_px)
        try:
            scene = decode_scene(values, group.kind, frame, group.max_layers, taken=self.taken)
            if self.text is not None:
                scene |= self.text.values(position, values["caption"])
            if self.caption_bytes:
                scene["caption"] = _filled(values["caption"], self.caption_bytes)
        except ValueError as error:
            raise self._damaged(position, error) from error
        return scene | {"scene_id": np.asarray(position, np.int32)}

    def _damaged(self, position: int, error: Exception) -> InvalidInput:
        shard, record = self.shard_of(position)
        return InvalidInput(
            f"record {record} of shard {self.info.path / shard} cannot be read "
            f"({' '.join(str(error).split())}); {REBUILD}"
        )


def _filled(caption: bytes, length: int) -> UInt8[np.ndarray, " n"]:
    return np.frombuffer(caption[:length].ljust(length, b"\0"), np.uint8)


def open_split(
    path: Path,
    split: str,
    max_layers: int | None = None,
    *,
    text: bool = False,
    caption_bytes: int = 0,
    taken: bool = False,
) -> SplitReader:
    """Open a split for reading by position.

    Args:
        path: the dataset folder.
        split: name of the split.
        max_layers: length of the layer axis; each group's own maximum when None.
        text: bring the captions' embeddings, where the dataset has them.
        caption_bytes: bring so many bytes of every caption.
        taken: bring photographs through a camera's lens, and that camera.

    Raises:
        InvalidInput: as `dataset_info`; no such split; `max_layers` below a group's.
    """
    info = dataset_info(path)
    if split not in info.splits:
        raise InvalidInput(f"split is {split!r}; allowed in {path}: {', '.join(info.splits)}")
    stored = library_builder(path).info.splits[split]
    groups = info.splits[split]
    index = read_groups(path, split, groups)
    if max_layers is not None:
        groups = tuple(_widen(group, max_layers, path) for group in groups)
    names = [Path(file).name for file in stored.filepaths]
    shards = tuple(zip(names, stored.shard_lengths, strict=True))
    records = ArrayRecordDataSource(stored.file_instructions)
    captions = None
    if text and info.text is not None:
        captions = open_text(path, split, info.text, len(index))
    return SplitReader(
        info, split, groups, index, shards, records, captions, caption_bytes, taken
    )


def _widen(group: Group, max_layers: int, path: Path) -> Group:
    if max_layers < group.max_layers:
        raise InvalidInput(
            f"max_layers is {max_layers}; allowed: at least {group.max_layers}, "
            f"as scenes in {path} have up to {group.max_layers} layers"
        )
    return dataclasses.replace(group, max_layers=max_layers if group.max_layers else 0)


def load_split(
    path: Path,
    split: str,
    limit: int | None = None,
    group: int = 0,
    *,
    text: bool = False,
    caption_bytes: int = 0,
    taken: bool = False,
) -> dict[str, np.ndarray]:
    """Load scenes of one group of a split in their stored order, as one scene batch.

    Args:
        path: the dataset folder.
        split: name of the split.
        limit: load the first `limit` scenes only.
        group: which of the split's groups.
        text: bring the captions' embeddings, where the dataset has them.
        caption_bytes: bring so many bytes of every caption.
        taken: bring photographs through a camera's lens, and that camera.

    Returns:
        The arrays of `SplitReader`'s scenes, stacked along a first axis.

    Raises:
        InvalidInput: as `open_split`; `limit` below 1; no such group.
    """
    if limit is not None and limit < 1:
        raise InvalidInput(f"limit is {limit}; allowed: at least 1, or None for all")
    reader = open_split(path, split, text=text, caption_bytes=caption_bytes, taken=taken)
    scenes = [reader[int(position)] for position in reader.positions(group)[:limit]]
    return {name: np.stack([scene[name] for scene in scenes]) for name in scenes[0]}


def load_provenance(path: Path, split: str) -> list[Any]:
    """Return what every scene of a split was made from, parsed from its provenance.

    Raises:
        InvalidInput: as `open_split`.
    """
    reader = open_split(path, split)
    return [json.loads(reader.values(position)["provenance"]) for position in range(len(reader))]
