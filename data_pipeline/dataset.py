"""A dataset folder as it is read: what is in it, and its records by position.

The folder is an ordinary TensorFlow Datasets folder of ArrayRecord shards, read without TensorFlow.
`metadata.json` in it holds the recipe and, for every split, a SHA-256 over its scenes' arrays in
order; the fingerprint is the SHA-256 of that file's content, so two folders with one fingerprint
hold the same scenes, however they were encoded.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader

from bokeh_jax.errors import InvalidInput
from data_pipeline.records import decode_layers, decode_png
from data_pipeline.source import DisparityUnit, Kind

DATASET_NAME = "refocus_scenes"
FORMAT_VERSION = 1
METADATA_FILE = "metadata.json"
REBUILD = "allowed: a whole dataset (build it again)"


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """What a dataset folder holds.

    Attributes:
        path: the folder.
        kind: `layered` or `photographs`.
        counts: scenes of every split.
        size_px: height and width of the stored frames, pixels.
        max_layers: the most layers a scene can have; 0 for photographs.
        disparity_unit: `relative` or `metric` (1/m).
        fingerprint: SHA-256 of recipe and content, hexadecimal.
    """

    path: Path
    kind: Kind
    counts: Mapping[str, int]
    size_px: int
    max_layers: int
    disparity_unit: DisparityUnit
    fingerprint: str


def dataset_info(path: Path) -> DatasetInfo:
    """Read what a dataset folder holds, and check that its shards are whole.

    Raises:
        InvalidInput: the folder is missing, is no dataset, is of another format version, or has a
            shard that is missing or cut short.
    """
    metadata = read_metadata(path)
    _check_shards(path, metadata)
    return DatasetInfo(
        path=path,
        kind=metadata["kind"],
        counts={name: split["num_scenes"] for name, split in metadata["splits"].items()},
        size_px=metadata["size_px"],
        max_layers=metadata["max_layers"],
        disparity_unit=metadata["disparity_unit"],
        fingerprint=fingerprint_of(metadata),
    )


def fingerprint_of(metadata: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the metadata, written in one canonical way."""
    return hashlib.sha256(json.dumps(metadata, sort_keys=True).encode()).hexdigest()


def read_metadata(path: Path) -> dict[str, Any]:
    """Read `metadata.json`.

    Raises:
        InvalidInput: as `dataset_info`, but for the shards.
    """
    if not path.is_dir():
        raise InvalidInput(f"dataset folder is {path}, which is not there; allowed: a folder")
    try:
        metadata = json.loads((path / METADATA_FILE).read_text())
        version = metadata["format_version"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InvalidInput(
            f"dataset folder {path} has no readable {METADATA_FILE}; {REBUILD}"
        ) from None
    if version != FORMAT_VERSION:
        raise InvalidInput(
            f"dataset folder {path} has format version {version}; allowed: {FORMAT_VERSION}"
        )
    return metadata


def _check_shards(path: Path, metadata: Mapping[str, Any]) -> None:
    """Open every shard: a shard that is cut short has lost the index at its end."""
    builder = _builder(path)
    for name, split in metadata["splits"].items():
        infos = builder.info.splits
        if name not in infos or infos[name].num_examples != split["num_scenes"]:
            raise InvalidInput(f"dataset folder {path} disagrees on split {name!r}; {REBUILD}")
        for shard, length in zip(infos[name].filepaths, infos[name].shard_lengths, strict=True):
            found = _num_records(Path(shard))
            if found != length:
                raise InvalidInput(f"shard {shard} has {found} of {length} scenes; {REBUILD}")


def _num_records(shard: Path) -> int:
    """Count a shard's records; 0 where it is missing or cannot be opened."""
    if not shard.is_file():
        return 0
    try:
        reader = ArrayRecordReader(str(shard))
        count = reader.num_records() if reader.ok() else 0
        # Closing raises what opening has found but not said.
        reader.close()
    except RuntimeError:
        return 0
    return count


def _builder(path: Path) -> Any:
    """Return the library's builder over a folder; Any, as its decorators hide the signatures."""
    try:
        return tfds.builder_from_directory(str(path))
    except Exception as error:
        # Whatever a damaged file makes the parsers raise: it is the folder that is at fault.
        raise InvalidInput(
            f"dataset folder {path} cannot be read ({' '.join(str(error).split())}); {REBUILD}"
        ) from error


@dataclasses.dataclass(frozen=True, eq=False)
class SplitReader:
    """A split's scenes by position, ready for batching; picklable.

    Attributes:
        info: the dataset.
        split: name of the split.
        max_layers: layered scenes are filled up to this many layers.
        examples: random access to the encoded records.
    """

    info: DatasetInfo
    split: str
    max_layers: int
    examples: Sequence[Mapping[str, Any]]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, position: int) -> dict[str, np.ndarray]:
        """Decode one scene: the keys of the scene batch without the batch axis.

        Raises:
            InvalidInput: the record is damaged.
        """
        scene_id = np.asarray(position, np.int32)
        try:
            example = self.examples[position]
            if self.info.kind == "photographs":
                image = decode_png(example["image"])
                disparity = np.asarray(example["disparity"], np.float32)
                return {"image": image, "disparity": disparity, "scene_id": scene_id}
            layers, planes = decode_layers(example, self.max_layers)
            return {"layers": layers, "layer_disparity": planes, "scene_id": scene_id}
        except (RuntimeError, OSError, ValueError) as error:
            raise InvalidInput(
                f"scene {position} of split {self.split!r} in {self.info.path} cannot be read "
                f"({' '.join(str(error).split())}); {REBUILD}"
            ) from error


def open_split(path: Path, split: str, max_layers: int | None = None) -> SplitReader:
    """Open a split for reading by position.

    Args:
        path: the dataset folder.
        split: name of the split.
        max_layers: length of the layer axis; the dataset's own maximum when None.

    Raises:
        InvalidInput: as `dataset_info`; no such split; `max_layers` below the dataset's.
    """
    info = dataset_info(path)
    if split not in info.counts:
        raise InvalidInput(f"split is {split!r}; allowed in {path}: {', '.join(info.counts)}")
    wanted = info.max_layers if max_layers is None else max_layers
    if wanted < info.max_layers:
        raise InvalidInput(
            f"max_layers is {wanted}; allowed: at least {info.max_layers}, "
            f"as scenes in {path} have up to {info.max_layers} layers"
        )
    frames = "image" if info.kind == "photographs" else "layers"
    # The library's own decoding would prefer OpenCV where that is installed, and warn where not.
    skip = {frames: tfds.decode.SkipDecoding()}
    examples = _builder(path).as_data_source(split, decoders=skip)
    return SplitReader(info, split, wanted, examples)


def load_split(path: Path, split: str, limit: int | None = None) -> dict[str, np.ndarray]:
    """Load a split's scenes in their stored order, as one scene batch.

    Args:
        path: the dataset folder.
        split: name of the split.
        limit: load the first `limit` scenes only.

    Returns:
        The arrays of the scene batch: `layers` uint8 [b, l, h, w, 4] and `layer_disparity` float32
        [b, l, 3], or `image` uint8 [b, h, w, 3] and `disparity` float32 [b, h, w]; `scene_id`
        int32 [b].

    Raises:
        InvalidInput: as `open_split`; `limit` below 1.
    """
    if limit is not None and limit < 1:
        raise InvalidInput(f"limit is {limit}; allowed: at least 1, or None for all")
    reader = open_split(path, split)
    count = len(reader) if limit is None else min(limit, len(reader))
    scenes = [reader[position] for position in range(count)]
    return {name: np.stack([scene[name] for scene in scenes]) for name in scenes[0]}


def load_provenance(path: Path, split: str) -> list[Any]:
    """Return what every scene of a split was made from, parsed from its provenance.

    Raises:
        InvalidInput: as `open_split`.
    """
    examples = open_split(path, split).examples
    return [json.loads(examples[position]["provenance"]) for position in range(len(examples))]
