"""What is in a dataset folder, and whether its files are whole.

The folder is an ordinary TensorFlow Datasets folder of ArrayRecord shards, read without TensorFlow.
`metadata.json` in it holds the recipe and, for every split, a SHA-256 over its scenes in order; the
fingerprint is the SHA-256 of that file's content, so two folders with one fingerprint hold the same
scenes, however they were encoded.

Scenes of one kind, source and frame size are a group: they can stand in one batch. Which group each
record belongs to is in `groups_<split>.npy`.
"""

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader
from etils import epath
from jaxtyping import UInt16

from bokeh_jax.errors import InvalidInput
from data_pipeline.latent_records import LatentSizes
from data_pipeline.source import KINDS, Kind
from data_pipeline.text_encoder import TextShape

FORMAT_VERSION = 2
METADATA_FILE = "metadata.json"
REBUILD = "allowed: a whole dataset (build it again)"


@dataclasses.dataclass(frozen=True, order=True)
class Group:
    """Scenes of one split that can stand in one batch.

    Attributes:
        kind: `layered`, `photographs` or `latents`.
        source: name of the source that made them.
        height_px: of the stored frames; of latents, cells.
        width_px: of the stored frames; of latents, cells.
        max_layers: the most layers a scene of this source has in any split; 0 for photographs.
        num_scenes: how many the split has.
    """

    kind: Kind
    source: str
    height_px: int
    width_px: int
    max_layers: int
    num_scenes: int


@dataclasses.dataclass(frozen=True)
class TextInfo:
    """Embeddings of a dataset's captions.

    Attributes:
        shape: of a caption's.
        encoder: the name and the digest of what made them.
        num_captions: different ones.
    """

    shape: TextShape
    encoder: str
    num_captions: int

    def __str__(self) -> str:
        return f"{self.num_captions} captions as {self.shape}, by {self.encoder}"


@dataclasses.dataclass(frozen=True)
class LatentInfo:
    """What a dataset of latents was made with.

    Attributes:
        sizes: of the latents.
        codec: digest of the autoencoder's parameters.
        settings: of the experiment, as JSON values by group.
    """

    sizes: LatentSizes
    codec: str
    settings: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """What a dataset folder holds.

    Attributes:
        path: the folder.
        splits: the groups of every split.
        fingerprint: SHA-256 of recipe and content, hexadecimal.
        weights: how much of training each source is meant to have, by its name; relative to each
            other; sources that are not named have 1.
        text: embeddings of the scenes' captions; None where there are none.
        latents: what the scenes are, where they are latents; else None.
    """

    path: Path
    splits: Mapping[str, tuple[Group, ...]]
    fingerprint: str
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    text: TextInfo | None = None
    latents: LatentInfo | None = None

    @property
    def counts(self) -> Mapping[str, int]:
        """Scenes of every split."""
        return {split: sum(g.num_scenes for g in groups) for split, groups in self.splits.items()}


def groups_file(split: str) -> str:
    """Name of the file with every record's group, uint16 [num_scenes]."""
    return f"groups_{split}.npy"


def dataset_info(path: Path) -> DatasetInfo:
    """Read what a dataset folder holds, and check that its files are whole.

    Raises:
        InvalidInput: the folder is missing, is no dataset, is of another format version, or has a
            shard or an index that is missing or cut short.
    """
    metadata = read_metadata(path)
    info = info_from(path, metadata)
    _check_shards(path, info.counts)
    for split, groups in info.splits.items():
        read_groups(path, split, groups)
    return info


def info_from(path: Path, metadata: Mapping[str, Any]) -> DatasetInfo:
    """Return what `metadata.json` says a folder holds.

    Raises:
        InvalidInput: it contradicts itself.
    """
    try:
        kinds = {g["kind"] for split in metadata["splits"].values() for g in split["groups"]}
        if kinds - {*KINDS, "latents"}:
            raise ValueError(f"kinds are {', '.join(sorted(kinds))}")
        splits = {
            name: tuple(Group(**group) for group in split["groups"])
            for name, split in metadata["splits"].items()
        }
        for name, split in metadata["splits"].items():
            if sum(g.num_scenes for g in splits[name]) != split["num_scenes"]:
                raise ValueError(f"groups of split {name!r} disagree with it")
        weights = {str(name): float(weight) for name, weight in metadata["weights"].items()}
        text, latents = _text_info(metadata), _latent_info(metadata)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidInput(
            f"dataset folder {path} has a damaged {METADATA_FILE} ({error}); {REBUILD}"
        ) from error
    return DatasetInfo(path, splits, fingerprint_of(metadata), weights, text, latents)


def _latent_info(metadata: Mapping[str, Any]) -> LatentInfo | None:
    if "latents" not in metadata["recipe"]:
        return None
    made = metadata["recipe"]["latents"]
    sizes = LatentSizes(int(made["channels"]), int(made["num_targets"]))
    return LatentInfo(sizes, str(made["codec"]), dict(made["settings"]))


def _text_info(metadata: Mapping[str, Any]) -> TextInfo | None:
    if "text" not in metadata:
        return None
    recipe = metadata["text"]
    shape = TextShape(*(int(recipe[field.name]) for field in dataclasses.fields(TextShape)))
    encoder = f"{recipe['encoder']} {recipe['files_sha256'][:12]}"
    return TextInfo(shape, encoder, int(metadata["num_captions"]))


def fingerprint_of(metadata: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the metadata, written in one canonical way."""
    return hashlib.sha256(json.dumps(metadata, sort_keys=True).encode()).hexdigest()


def read_metadata(path: epath.PathLike) -> dict[str, Any]:
    """Read `metadata.json`.

    Raises:
        InvalidInput: as `dataset_info`, but for the shards and indices.
    """
    path = epath.Path(path)
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
            f"dataset folder {path} has format version {version}; allowed: {FORMAT_VERSION} "
            "(build it again)"
        )
    return metadata


def _check_shards(path: Path, counts: Mapping[str, int]) -> None:
    """Open every shard: a shard that is cut short has lost the index at its end."""
    infos = library_builder(path).info.splits
    for name, count in counts.items():
        if name not in infos or infos[name].num_examples != count:
            raise InvalidInput(f"dataset folder {path} disagrees on split {name!r}; {REBUILD}")
        for shard, length in zip(infos[name].filepaths, infos[name].shard_lengths, strict=True):
            found = count_records(Path(shard))
            if found != length:
                raise InvalidInput(f"shard {shard} has {found} of {length} scenes; {REBUILD}")


def count_records(shard: Path) -> int:
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


def library_builder(path: Path) -> Any:
    """Return the library's builder over a folder; Any, as its decorators hide the signatures."""
    try:
        with warnings.catch_warnings():
            # The library asks protobuf 6, which Apache Beam wants, for what is gone in 7.
            warnings.filterwarnings("ignore", r"label\(\) is deprecated", DeprecationWarning)
            return tfds.builder_from_directory(str(path))
    except Exception as error:
        # Whatever a damaged file makes the parsers raise: it is the folder that is at fault.
        raise InvalidInput(
            f"dataset folder {path} cannot be read ({' '.join(str(error).split())}); {REBUILD}"
        ) from error


def read_groups(
    path: Path, split: str, groups: tuple[Group, ...]
) -> UInt16[np.ndarray, " num_scenes"]:
    """Read every record's group, and check it against the groups' sizes."""
    file = path / groups_file(split)
    try:
        index = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InvalidInput(
            f"index {file} cannot be read ({' '.join(str(error).split())}); {REBUILD}"
        ) from error
    sizes = [group.num_scenes for group in groups]
    whole = index.dtype == np.uint16 and index.shape == (sum(sizes),)
    if not whole or np.bincount(index, minlength=len(sizes)).tolist() != sizes:
        raise InvalidInput(f"index {file} disagrees with {METADATA_FILE}; {REBUILD}")
    return index
